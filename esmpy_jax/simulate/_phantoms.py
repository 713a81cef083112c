"""Phantoms: maps of volume fractions, pure functions of a shape, parameters and a key.

Each returns an array of shape (phase, y, x) that sums to one over the phases. Lengths are in
pixels and pixel (row, column) covers the unit square centred on y = row, x = column. Random
numbers are drawn in 32 bits, so a key gives the same scene with 64-bit types on and off.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .._checks import check
from ..physics import Number

_ATTEMPTS = 2000  # positions tried for the spheres of one scene before it counts as full
_SCENES = 50  # scenes begun before giving up
_SUBPIXELS = 5  # per side, to average a sphere's projection over a pixel


def spheres(
    shape: tuple[int, int] = (128, 128),
    *,
    key: Key[Array, ""] | None = None,
    radius: Number | Sequence[Number] = 25.0,
    count: int | Sequence[int] = (1, 1),
    centres: Sequence[Sequence[tuple[Number, Number]]] | None = None,
    foil_thickness: Number | None = None,
) -> Float[Array, "phase y x"]:
    """Spheres of one or more particle phases in a foil of matrix (phase 0).

    A sphere of radius r in the middle of a foil of thickness T, seen at the distance d from its
    centre, takes the fraction `min(1, 2 sqrt(r² - d²) / T)` of the path through the foil.

    **Arguments:**

    - `shape`: (y, x) pixels.
    - `key`: places the spheres at random, inside the image and without overlap in projection.
    - `radius`: of the spheres, in pixels; one for all or one per particle phase.
    - `count`: spheres of each particle phase; an integer stands for one particle phase.
    - `centres`: explicit (y, x) centres per particle phase, in place of `key` and `count`.
    - `foil_thickness`: T in pixels. By default four times the largest radius: a particle then
      takes at most half of a pixel, the mixing of the spheres of Teurtrie et al., Mach. Learn.:
      Sci. Technol. 5 (2024) 045050, and no pixel holds a pure particle. With twice the radius its
      centre is pure.

    Raises `InputError` when the spheres do not fit or overlap so much that they exceed the foil.
    """
    ny, nx = _check_shape(shape)
    counts = [count] if isinstance(count, int) else [int(c) for c in count]
    n_phases = len(counts) if centres is None else len(centres)
    radii = [float(r) for r in (radius if isinstance(radius, Sequence) else [radius] * n_phases)]
    check(
        n_phases >= 1 and len(radii) == n_phases and min(radii) > 0,
        f"Spheres of {n_phases} particle phases were asked for with {len(radii)} radii; give one "
        "positive radius in pixels, or one for each particle phase.",
    )
    thickness = 4 * max(radii) if foil_thickness is None else float(foil_thickness)
    check(thickness > 0, f"The foil thickness is {thickness} pixels; it must be positive.")
    if centres is None:
        check(
            key is not None,
            "Spheres need a `key` to be placed at random, or explicit `centres`; give one.",
        )
        assert key is not None
        check(min(counts) >= 0, f"The sphere counts {counts} include a negative one.")
        positions = _place((ny, nx), radii, counts, key)
    else:
        positions = [np.asarray(c, float).reshape(-1, 2) for c in centres]

    offsets = (np.arange(_SUBPIXELS) + 0.5) / _SUBPIXELS - 0.5
    y = (np.arange(ny)[:, None] + offsets).ravel()
    x = (np.arange(nx)[:, None] + offsets).ravel()
    maps = np.zeros((n_phases + 1, ny, nx))
    for phase, (r, points) in enumerate(zip(radii, positions, strict=True), start=1):
        for cy, cx in points:
            squared = r**2 - (y[:, None] - cy) ** 2 - (x[None, :] - cx) ** 2
            chord = np.minimum(2 * np.sqrt(np.maximum(squared, 0)) / thickness, 1.0)
            maps[phase] += chord.reshape(ny, _SUBPIXELS, nx, _SUBPIXELS).mean((1, 3))
    taken = maps[1:].sum(0)
    check(
        bool(taken.max() <= 1 + 1e-9),
        "The spheres overlap so much that together they are thicker than the foil; move their "
        "centres apart or make the foil thicker.",
    )
    maps[0] = np.maximum(1 - taken, 0)
    return jnp.asarray(maps, float)


def grain_boundary(
    shape: tuple[int, int] = (128, 128),
    *,
    width: Number = 4.0,
    peak: Number = 0.6,
    angle: Number = 70.0,
    position: Number = 0.5,
) -> Float[Array, "phase y x"]:
    """Two grains (phases 0 and 1) and a segregated layer along their boundary (phase 2).

    With d the distance from the boundary, the layer takes `peak · exp(-4 ln2 d² / width²)`, the
    foil's and the beam's blur of a thin layer; the rest changes from grain 0 to grain 1 as the
    error function of the same blur.

    **Arguments:**

    - `width`: full width at half maximum, in pixels.
    - `peak`: the layer's fraction on the boundary, in [0, 1].
    - `angle`: of the boundary with the x axis, in degrees.
    - `position`: where along the diagonal across the boundary it lies, 0 to 1.
    """
    ny, nx = _check_shape(shape)
    check(width > 0, f"The boundary is {width} pixels wide; its width must be positive.")
    check(0 <= peak <= 1, f"The boundary's peak fraction is {peak}; give one between 0 and 1.")
    turn = np.radians(angle)
    normal = np.array([np.cos(turn), np.sin(turn)])  # (y, x)
    y, x = np.mgrid[:ny, :nx]
    corners = [normal @ corner for corner in ((0, 0), (0, nx - 1), (ny - 1, 0), (ny - 1, nx - 1))]
    where = min(corners) + position * (max(corners) - min(corners))
    distance = jnp.asarray(normal[0] * y + normal[1] * x - where, float)
    sigma = width / np.sqrt(8 * np.log(2))
    layer = peak * jnp.exp(-0.5 * (distance / sigma) ** 2)
    first = jax.scipy.stats.norm.cdf(-distance / sigma)
    return jnp.stack([(1 - layer) * first, (1 - layer) * (1 - first), layer])


def gradient(
    shape: tuple[int, int] = (128, 128), *, n_phases: int = 2, axis: str = "x"
) -> Float[Array, "phase y x"]:
    """Linear change from the first phase at one side to the last at the other.

    Between the sides each phase in turn is pure at one of `n_phases` equally spaced places and
    fades linearly to the next ones. `axis` is "x" (left to right) or "y" (top to bottom).
    """
    ny, nx = _check_shape(shape)
    check(n_phases >= 1, f"A gradient of {n_phases} phases was asked for; give at least 1.")
    check(axis in ("x", "y"), f"The gradient's axis is '{axis}'; give 'x' or 'y'.")
    place = jnp.linspace(0.0, n_phases - 1.0, nx if axis == "x" else ny)
    hats = jnp.maximum(1 - jnp.abs(place[None, :] - jnp.arange(n_phases)[:, None]), 0)
    hats = hats[:, None, :] if axis == "x" else hats[:, :, None]
    return jnp.broadcast_to(hats, (n_phases, ny, nx))


def random_texture(
    shape: tuple[int, int] = (128, 128),
    *,
    key: Key[Array, ""],
    n_phases: int = 3,
    length: Number = 8.0,
    contrast: Number = 4.0,
) -> Float[Array, "phase y x"]:
    """Softmax of one smooth Gaussian random field per phase.

    **Arguments:**

    - `length`: standard deviation, in pixels, of the Gaussian that smooths white noise
      (periodically); features are about four times as large.
    - `contrast`: standard deviation of the fields in the softmax. Large: nearly pure patches;
      0: equal shares everywhere.
    """
    _check_shape(shape)
    check(n_phases >= 1, f"A texture of {n_phases} phases was asked for; give at least 1.")
    check(length >= 0, f"The texture's length is {length} pixels; it must not be negative.")
    fields = contrast * _smooth_fields(key, n_phases, shape, length)
    return jax.nn.softmax(fields, axis=0)


def thickness_map(
    shape: tuple[int, int] = (128, 128),
    *,
    key: Key[Array, ""],
    low: Number = 0.5,
    high: Number = 1.5,
    length: Number = 24.0,
) -> Float[Array, "y x"]:
    """A smoothly varying relative thickness that spans exactly `low` to `high`.

    A Gaussian random field of smoothing `length` (pixels), scaled linearly.
    """
    _check_shape(shape)
    check(
        0 <= low <= high,
        f"The thickness is to vary from {low} to {high}; give 0 <= low <= high.",
    )
    field = _smooth_fields(key, 1, shape, length)[0]
    span = field.max() - field.min()
    return low + (high - low) * (field - field.min()) / jnp.where(span > 0, span, 1.0)


def _check_shape(shape: tuple[int, int]) -> tuple[int, int]:
    check(
        len(shape) == 2 and min(shape) >= 1,
        f"The scan's shape is {tuple(shape)}; give (y, x) pixels, each at least 1.",
    )
    return int(shape[0]), int(shape[1])


def _smooth_fields(
    key: Key[Array, ""], n: int, shape: tuple[int, int], length: float
) -> Float[Array, "field y x"]:
    """`n` periodic Gaussian random fields, each of mean zero and unit variance over the image."""
    ny, nx = shape
    noise = jax.random.normal(key, (n, ny, nx), jnp.float32).astype(float)
    squared = jnp.fft.fftfreq(ny)[:, None] ** 2 + jnp.fft.rfftfreq(nx)[None, :] ** 2
    transfer = jnp.exp(-2 * (np.pi * length) ** 2 * squared)
    fields = jnp.fft.irfft2(jnp.fft.rfft2(noise) * transfer[None], s=(ny, nx))
    fields = fields - fields.mean((1, 2), keepdims=True)
    deviation = jnp.sqrt((fields**2).mean((1, 2), keepdims=True))
    return fields / jnp.where(deviation > 0, deviation, 1.0)


def _place(
    shape: tuple[int, int], radii: list[float], counts: list[int], key: Key[Array, ""]
) -> list[np.ndarray]:
    """Random centres, inside the image and without overlap; the largest spheres go first."""
    phases = [phase for phase, n in enumerate(counts) for _ in range(n)]
    phases.sort(key=lambda phase: -radii[phase])
    need = max((radii[phase] for phase in phases), default=0.0)
    check(
        2 * need <= min(shape),
        f"A sphere of radius {need} pixels does not fit into {shape[0]} × {shape[1]} pixels; make "
        "it smaller or give explicit `centres`.",
    )
    for scene in range(_SCENES):
        draws = jax.random.uniform(jax.random.fold_in(key, scene), (_ATTEMPTS, 2), jnp.float32)
        placed = _place_once(shape, radii, phases, np.asarray(draws, float))
        if len(placed) == len(phases):
            return [
                np.array([c for c, p in zip(placed, phases, strict=True) if p == phase]).reshape(
                    -1, 2
                )
                for phase in range(len(radii))
            ]
    check(
        False,
        f"{len(phases)} spheres of radius {need:g} pixels and less do not fit into {shape[0]} × "
        f"{shape[1]} pixels without overlap; give fewer, smaller, or explicit `centres`.",
    )
    raise AssertionError


def _place_once(
    shape: tuple[int, int], radii: list[float], phases: list[int], draws: np.ndarray
) -> list[np.ndarray]:
    """Random sequential addition: each draw is tried for the next sphere; may end early."""
    placed: list[np.ndarray] = []
    for draw in draws:
        if len(placed) == len(phases):
            break
        r = radii[phases[len(placed)]]
        # Centres in [r - 1/2, n - 1/2 - r] keep the sphere inside the n pixels.
        centre = r - 0.5 + draw * (np.array(shape) - 2 * r)
        if all(
            np.hypot(*(centre - other)) >= r + radii[phases[i]] for i, other in enumerate(placed)
        ):
            placed.append(centre)
    return placed
