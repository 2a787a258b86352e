"""Makers of test data: binary catalogs and the reverse task."""

import random
import struct


def mo_bytes(messages, charset="utf-8", order="<", declared=None):
    """A binary catalog; keys and values are texts or ready bytes."""
    header = f"Content-Type: text/plain; charset={declared or charset}\n"

    def encode(text):
        return text if isinstance(text, bytes) else text.encode(charset)

    entries = sorted((encode(key), encode(value)) for key, value in {"": header, **messages}.items())
    count, table = len(entries), 28
    blob, tables = b"", ([], [])
    start = table + 16 * count
    for side in (0, 1):
        for entry in entries:
            tables[side].append((len(entry[side]), start + len(blob)))
            blob += entry[side] + b"\0"
    head = struct.pack(order + "7I", 0x950412DE, 0, count, table, table + 8 * count, 0, 0)
    return head + b"".join(struct.pack(order + "2I", *row) for side in tables for row in side) + blob


def reverse_pairs(count, seed=0, words="ab cd ef gh ij kl mn op"):
    """Pairs whose target is the source's words backwards."""
    draw = random.Random(seed)
    sentences = {" ".join(draw.choices(words.split(), k=draw.randrange(2, 6))) for _ in range(2 * count)}
    return [(text, " ".join(reversed(text.split()))) for text in sorted(sentences)[:count]]
