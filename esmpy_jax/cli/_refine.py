"""`esmpy-jax refine`: physical parameters from the counts, and then a fit with them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._checks import check
from . import _options as o
from . import _parse as parse
from ._fit import decompose
from ._model import check_absorbing, read_detector
from ._refined import Refined
from ._terminal import working

if TYPE_CHECKING:
    from ..inference import Solution, SpectrumImage
    from ..model import EDSModel

#: What no model has of itself, and every model can be given.
_ADDED = (
    "tail_depth",
    "escape_strength",
    "pile_up_share",
    "continuum_correction_1",
    "efficiency_correction_1",
)
_OF_LINES = (" ratio", " energy")


@o.with_options_of(decompose)
def refine(parameters: o.Parameters = None, loss: o.Loss = "summed", **options: Any) -> None:
    """Correct physical parameters by the counts, with standard errors; then fit the phases.

    Energy scale, resolution, detector and absorption are refined on the summed spectrum, or on the
    phases of a first fit (--loss pools, twice the time), which is better where phases differ much
    and the sample absorbs. Writes what fit writes, with the parameters, their part in the errors of
    the compositions, and how the compositions depend on every parameter.

    Example: esmpy-jax refine scan.bcf --elements O,Mg,Si,Fe --stray Cu --phases 3 --out results
    """
    loss = parse.choice(loss, ("summed", "pools", "pixels"), "--loss")
    names = None
    if parameters is not None:
        names = parse.words(parameters)
        check_names(names, options)
    decompose(**options, refining=functools.partial(refined, names=names, loss=loss))


def refined(
    image: SpectrumImage,
    model: EDSModel,
    fitted: Callable[[EDSModel], Solution] | None = None,
    *,
    names: Sequence[str] | None,
    loss: str = "summed",
) -> Refined:
    """The refinement of parameters of a model, by default of `FIRST_LOOK`.

    On the summed spectrum of an image, or on pools of the phases that `fitted` finds.
    """
    from ..inference import FIRST_LOOK
    from ..inference import refine as run

    if names is not None:
        _check_known(model, [name for name in names if not name.endswith(_OF_LINES)])
    first = fitted(model) if loss != "summed" and fitted is not None else None
    with working("refining the parameters"):
        found = run(image, model, first, names, loss=loss)
    left_out = [n for n in FIRST_LOOK if names is None and n not in found.parameters]
    return Refined(
        found,
        tuple(
            f"without self-absorption {name} was left out of the refinement; give --thickness and "
            "--density to refine it"
            for name in left_out
        ),
    )


def check_names(names: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise `InputError` for names that no model made with these options has.

    Asks a model of one element, so that the file need not be read for it.
    """
    check(
        len(names) > 0,
        "--parameters names nothing; give names such as energy_offset,energy_gain, or leave it "
        "out.",
    )
    check_absorbing(names, options["thickness"], options["density"])

    import dataclasses

    from ..inference import SpectrumImage
    from ..model import EDSModel
    from ..model._line_data import LineGroup
    from ..objective import as_counts
    from ..physics import Acquisition, EnergyAxis

    for name in names:
        if name.endswith(_OF_LINES):
            LineGroup.parse(name.rsplit(" ", 1)[0])
    axis = EnergyAxis(0.2, 0.05, 100)
    pixel = SpectrumImage(as_counts([[[1] * axis.size]]), axis, Acquisition(beam_energy=200.0))
    model = EDSModel.from_image(pixel, ["O"], take_off_angle=30.0, thickness=1.0, density=1.0)
    chosen = (options["efficiency"], options["detector"], options["resolution"])
    detector, _ = read_detector(pixel, *chosen)
    if detector is not None:
        model = dataclasses.replace(model, detector=detector)
    _check_known(model, [name for name in names if not name.endswith(_OF_LINES)])


def _check_known(model: EDSModel, names: Sequence[str]) -> None:
    """Raise `InputError` for names of parameters that a model has not and cannot be given."""
    import numpy as np

    from ..model import adjustables, switched_on

    flat = np.ones(model.energy_axis.size)
    known = adjustables(switched_on(model, [*names, *_ADDED], flat))
    for name in names:
        near = difflib.get_close_matches(name, known, 1)
        meant = f" (perhaps {near[0]} is meant)" if near else ""
        check(
            name in known,
            f"--parameters names '{name}', which the model has not{meant}; choose among "
            f"{', '.join(known)} and, of groups of lines, names such as 'Mg K-M ratio' or "
            "'Mg K-M energy'.",
        )
