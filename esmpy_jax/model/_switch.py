"""Switching on the parts of a model whose parameters are asked for by name."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from .._checks import check
from ..physics import (
    CorrectedBremsstrahlung,
    CorrectedEfficiency,
    Curve,
    IncompleteCharge,
    PileUp,
    Response,
    SiliconEscape,
    SmoothCorrection,
)
from ..physics._stacked_axis import channels
from ._adjustable import adjustables
from ._joint import AnyModel
from ._model import EDSModel

#: Where an unknown share of piled-up photons starts.
_PILE_UP = 1e-3

#: Highest order of a smooth correction.
_HIGHEST_ORDER = 8

_TAIL = ("tail_depth", "shelf_depth", "tail_relative_loss")


def switched_on(model: AnyModel, names: Sequence[str], spectrum: Curve) -> AnyModel:
    """The model with every part that has a parameter of these names.

    - "continuum_correction_1", "_2", ... and "efficiency_correction_1", ...: smooth factors of as
        high an order as is named, one everywhere to begin with.
    - "Mg K-M ratio", "Mg K energy": corrections of groups of lines, none to begin with.
    - "tail_depth", "shelf_depth", "tail_relative_loss"; "escape_strength"; "pile_up_share": parts
        of the detector's response, with the usual values to begin with, and no tail or shelf where
        that is not named. `spectrum`: the summed one, for the pile-up.

    Parts that the model has stay as they are. Names that mean nothing are left to the caller.
    """
    before = set(adjustables(model))
    groups = [name.rsplit(" ", 1)[0] for name in names if name.endswith((" ratio", " energy"))]
    model = model.with_line_groups(*groups)
    parts = [
        _with(part, model.own_names(names, i), np.asarray(spectrum)[own])
        for i, (part, own) in enumerate(zip(model.parts, channels(model.energy_axis), strict=True))
    ]
    whole = model.with_parts(parts)
    new = set(adjustables(whole)) - before
    return whole.with_sources(dict.fromkeys(sorted(new), "default"))


def _with(model: EDSModel, names: Sequence[str], spectrum: Curve) -> EDSModel:
    """The parts of one detector's model."""
    low, high = _range(model)
    order = _order(names, "continuum_correction_")
    if order:
        shapes, smooth = model.bremsstrahlung, SmoothCorrection(np.zeros(order), low, high)
        if isinstance(shapes, CorrectedBremsstrahlung):
            shapes, smooth = shapes.shapes, shapes.correction.extended(order)
        bremsstrahlung = CorrectedBremsstrahlung(shapes, smooth)
        model = dataclasses.replace(model, bremsstrahlung=bremsstrahlung)
    detector = model.detector
    order = _order(names, "efficiency_correction_")
    if order:
        curve, smooth = detector.efficiency, SmoothCorrection(np.zeros(order), low, high)
        if isinstance(curve, CorrectedEfficiency):
            curve, smooth = curve.efficiency, curve.correction.extended(order)
        detector = dataclasses.replace(detector, efficiency=CorrectedEfficiency(curve, smooth))
    response = detector.response
    if any(name in _TAIL for name in names):
        response = response or Response()
        if response.incomplete_charge is None:
            response = dataclasses.replace(response, incomplete_charge=_incomplete(names))
    if "escape_strength" in names:
        response = response or Response()
        if response.escape is None:
            response = dataclasses.replace(response, escape=SiliconEscape())
    if "pile_up_share" in names:
        response = response or Response()
        if response.pile_up is None:
            response = dataclasses.replace(response, pile_up=PileUp(_PILE_UP, spectrum))
    return dataclasses.replace(model, detector=dataclasses.replace(detector, response=response))


def _incomplete(names: Sequence[str]) -> IncompleteCharge:
    """Tail and shelf as far as they are named: one that is held would pull at all others."""
    usual = IncompleteCharge()
    tail = "tail_depth" in names or "tail_relative_loss" in names
    return IncompleteCharge(
        float(usual.tail.thickness) if tail else 0.0,
        float(usual.shelf.thickness) if "shelf_depth" in names else 0.0,
        float(usual.relative_loss),
    )


def _order(names: Sequence[str], start: str) -> int:
    """The highest number after a beginning, 0 where there is none."""
    ends = [name.removeprefix(start) for name in names if name.startswith(start)]
    order = max((int(end) for end in ends if end.isdecimal()), default=0)
    check(
        order <= _HIGHEST_ORDER,
        f"{start}{order} is of a high order, which would follow noise and lines; name at most "
        f"{start}{_HIGHEST_ORDER}.",
    )
    return order


def _range(model: EDSModel) -> tuple[float, float]:
    """Energies of the axis, above where the tables begin."""
    axis = model.energy_axis
    return max(float(axis.offset), 0.1), float(axis.at(jnp.asarray(axis.size - 1.0)))
