"""Everything that touches transformers. Importing it registers the plug-in."""

from __future__ import annotations

from .attention import attention_maps
from .config import ShiftAddConfig
from .model import convert_, folder_bytes, load, pack_, revert_, save, unpack_
from .quantizer import ShiftAddQuantizer

__all__ = [
    "ShiftAddConfig",
    "ShiftAddQuantizer",
    "attention_maps",
    "convert_",
    "folder_bytes",
    "load",
    "pack_",
    "revert_",
    "save",
    "unpack_",
]
