"""`refine`: physical parameters from the counts themselves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._checks import check
from ..model import AbstractPrior, AnyModel, adjustables, switched_on
from ..solve import BatchFactorisation
from ._descent import descend
from ._fitted_counts import Batches, fitted_counts
from ._image import SpectrumImage
from ._refinement import Refinement, neutral, refinement
from ._scoring import score
from ._solution import Solution
from ._tangents import parametrised

#: What is safe to refine at first; the mass-thickness where the model has self-absorption.
FIRST_LOOK = (
    "energy_offset",
    "energy_gain",
    "noise_fwhm",
    "fano",
    "mass_thickness",
    "tail_depth",
    "tail_relative_loss",
)

Parameters = Sequence[str] | Mapping[str, AbstractPrior | None] | AnyModel


def refine(
    image: SpectrumImage | Batches,
    model: AnyModel,
    solution: Solution | BatchFactorisation | None = None,
    parameters: Parameters | None = None,
    *,
    loss: str | None = None,
    optimiser: optax.GradientTransformation | None = None,
    max_steps: int = 100,
    tol: float = 0.01,
    progress: Callable[[int, int, float], None] | None = None,
    throw: bool = True,
) -> Refinement:
    """Correct physical parameters of a model by the counts, with standard errors.

    Minimises `min over W >= 0, H >= 0 of NLL(G(θ) W H) + |u|² / 2`, where u are the parameters θ in
    the coordinates of their priors, by Fisher scoring of W and u together; H is solved for at every
    step with the loss "pixels", and held with the others. With self-absorption the spectrum of each
    phase follows its own W exactly.

    - `image`: or, of one that exceeds memory, its batches of pixels as `factorise_batches` takes
        them (`load_batches`), which are gone through twice; not with the loss "pixels".
    - `solution`: of the image, for its phases (of batches what `factorise_batches` found); the loss
        "summed" needs none.
    - `parameters`: names (`model.parameters()` lists what the model has; others switch on what they
        belong to, see `switched_on`), or a mapping from names to priors (`None` for the usual
        one), or a filter: a model with booleans for leaves, as Equinox takes them. By default
        `FIRST_LOOK`, and the sensitivities where there are several detectors; then "noise_fwhm of
        detector 2" is that of one, and "noise_fwhm" stands for those of all, each on its own.
    - `loss`: "summed", the default without a solution: the summed spectrum, as of one phase.
        "pools", the default with one: the counts of pixels that hold the same by the maps of the
        solution added up, and the maps kept; each phase then absorbs by its own composition, which
        matters where phases differ much. Both are Poisson with all the counts, and have nothing
        fitted to single pixels that could bias the parameters. "pixels": each pixel by itself,
        its abundances fitted.
    - `optimiser`: by default Fisher scoring of W and u together. Or any optax transformation that
        asks for no values of the loss (`optax.adam(0.1)`, `optax.lbfgs(linesearch=None)`): it walks
        over u, in coordinates in which the curvature at the start is one, W (and H) fitted again at
        every step.
    - `max_steps`, `tol`: stop when at most so many nats are believed to be left.
    - `throw`: raise `RuntimeError` when the search ends with values that are not finite.

    Raises `InputError` for parameters the model has not, and a loss that needs a solution.
    """
    check(
        solution is None or isinstance(solution, (Solution, BatchFactorisation)),
        f"The third argument is a {type(solution).__name__}; give a solution, or the parameters by "
        "name: parameters=...",
    )
    check(max_steps >= 1, f"max_steps is {max_steps}; give a whole number of at least 1.")
    check(tol > 0, f"tol is {tol}; give a positive number of nats such as 0.01.")
    loss = ("summed" if solution is None else "pools") if loss is None else loss
    check(
        loss in ("summed", "pools", "pixels"),
        f"The loss is '{loss}'; choose summed, pools or pixels.",
    )
    counts, weights, abundances = fitted_counts(image, model, solution, loss)
    given, (asked, priors) = model, _chosen(model, parameters, np.asarray(counts.sum_spectrum()))
    chosen, start = parametrised(asked, priors)
    had = adjustables(given)
    if all(name in had or neutral(name) for name in priors):
        as_given, at_first = chosen, start  # the same spectra, and one program for both
    else:
        as_given, at_first = parametrised(given)
    moved = [chosen.names.index(name) for name in priors]
    options: dict[str, Any] = {
        "held_abundances": loss != "pixels",
        "max_steps": max_steps,
        "tol": tol,
        "progress": progress,
    }
    alone = dict(options, max_steps=max(max_steps, 100))  # W alone, whatever is asked of the rest
    before = score(counts, as_given, weights, abundances, at_first, (), **alone)
    point = before.point
    weights, abundances = point.weights, point.abundances
    if optimiser is None:
        after = score(counts, chosen, weights, abundances, start, moved, **options)
    else:
        after = descend(optimiser, counts, chosen, weights, abundances, start, moved, **options)
    finite = bool(np.isfinite(after.point.loss) and np.isfinite(after.near.gradient).all())
    if throw and not finite:
        raise RuntimeError(
            "The refinement ended with values that are not finite; start from other values or "
            "leave parameters out."
        )
    phases = None
    if isinstance(solution, Solution) and loss != "summed":
        phases = [str(name) for name in solution.dataset["phase"].values]
    return refinement(counts, as_given, before, chosen, after, start, moved, loss, tol, phases)


def _chosen(
    model: AnyModel, parameters: Parameters | None, spectrum: np.ndarray
) -> tuple[AnyModel, dict[str, AbstractPrior]]:
    """The model with the parts that are asked for, and the prior of each parameter."""
    if isinstance(parameters, AnyModel):
        parameters = _of_filter(model, parameters)
    if parameters is None:
        absorbing, several = model.mass_thickness is not None, len(model.parts) > 1
        parameters = [n for n in FIRST_LOOK if absorbing or n != "mass_thickness"]
        parameters += ["sensitivity"] * several
    check(
        not isinstance(parameters, str),
        f"The parameters are the text '{parameters}'; give a list of names, such as "
        f"['{parameters}'].",
    )
    asked: dict[str, AbstractPrior | None] = {}
    for name, prior in (
        parameters if isinstance(parameters, Mapping) else dict.fromkeys(parameters)
    ).items():
        asked |= dict.fromkeys(model.meant(name), prior)
    for name, prior in asked.items():
        check(
            prior is None or isinstance(prior, AbstractPrior),
            f"The prior of {name} is a {type(prior).__name__}; give one such as "
            "esmpy_jax.model.Normal(median, sd), or None for the usual one.",
        )
    check(len(asked) > 0, "No parameter is named; name at least one.")
    model = switched_on(model, list(asked), spectrum)
    known = adjustables(model)
    priors: dict[str, AbstractPrior] = {}
    for name, prior in asked.items():
        check(
            name in known,
            f"The model has no parameter '{name}'; it has {', '.join(known)}; ratio and energy of "
            "groups of lines ('Mg K-M ratio') and smooth corrections ('continuum_correction_1') "
            "can be added.",
        )
        found = known[name].usual_prior(model) if prior is None else prior
        check(
            found is not None,
            f"{name} is {float(known[name].of(model)):g} {known[name].unit}, from where it cannot "
            "be refined by factors; build the model with a value inside its range, or give a "
            "prior.",
        )
        assert found is not None
        value = float(known[name].of(model))
        check(
            bool(np.isfinite(float(found.coordinate(value)))),
            f"{name} is {value:g} {known[name].unit}, which its prior rules out; give a prior that "
            "allows it, or build the model with another value.",
        )
        priors[name] = found
    return model, priors


def _of_filter(model: AnyModel, spec: AnyModel) -> list[str]:
    """Names of the leaves that are true in a filter."""
    marked = jax.tree.map(
        lambda flag, part: jax.tree.map(lambda leaf: jnp.full(jnp.shape(leaf), bool(flag)), part),
        spec,
        model,
        is_leaf=lambda x: isinstance(x, bool),
    )
    return [name for name, one in adjustables(model).items() if bool(one.flag(marked))]
