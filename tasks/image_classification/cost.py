"""What does classifying one image cost?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tasks.image_classification.batches import prepare


def cost_of(model: Any, processor: Any) -> dict[str, Any]:
    """Operations, weight bytes and modelled energy of one forward pass of one image.

    Args:
        model: dense, latent or packed.
        processor: its image processor.

    Returns:
        "operations" by kind, "weight_bytes", and "energy" in picojoules with the name of its table.
    """
    from PIL import Image

    from shiftadd_transformers.cost import count_ops

    report = count_ops(model, pixel_values=prepare(processor, [Image.new("RGB", (32, 32))]))
    energy, total = report.energy(), report.total
    return {
        "operations": asdict(total.counts),
        "weight_bytes": total.weight_bytes,
        "energy": {
            "table": energy.table,
            "compute_pj": energy.compute_pj,
            "memory_pj": energy.memory_pj,
            "total_pj": energy.compute_pj + energy.memory_pj,
        },
        "uncounted": dict(report.uncounted),
    }
