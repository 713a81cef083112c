"""Seconds of `refine` for eight parameters of an image of 128 x 128 pixels and 100 counts each.

    python experiments/detector_refinement/speed.py [--size N] [--counts N]

Prints a table: the first call in a process, with compiling, and the next one. The maps to start
from are those of a short fit by the wrong model, which is not timed.
"""

import argparse
import pathlib
import sys
import time

import jax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

from run import NAMES, believed_model, true_model

import esmpy_jax as ej
from esmpy_jax.simulate import demo_image

EIGHT = (*NAMES, "crystal_thickness")


def main(arguments: list[str] | None = None) -> str:
    """Run it; returns the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--counts", type=float, default=100.0, help="per pixel")
    options = parser.parse_args(arguments)
    believed = believed_model()
    shape, true = (options.size, options.size), true_model(believed)
    image = demo_image(jax.random.key(0), counts_per_pixel=options.counts, shape=shape, model=true)
    start = ej.VertexStart()
    quick = {"solver": ej.MultiplicativeUpdate(), "start": start, "max_steps": 50}
    found = ej.fit(image, believed, 3, **quick)
    lines = ["| loss | parameters | first (s) | again (s) | steps |", "|---|---|---|---|---|"]
    for loss in ("pools", "summed", "pixels"):
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            result = ej.refine(image, believed, found, EIGHT, loss=loss)
            seconds.append(time.perf_counter() - began)
        taken = f"{seconds[0]:.1f} | {seconds[1]:.1f} | {result.steps}"
        lines.append(f"| {loss} | {len(result.parameters)} | {taken} |")
        print(lines[-1], flush=True)
    channels = image.energy_axis.size
    lines.append(f"\n{options.size} x {options.size} x {channels}, {options.counts:g} counts each.")
    text = "\n".join(lines)
    print(text)
    return text


if __name__ == "__main__":
    main()
