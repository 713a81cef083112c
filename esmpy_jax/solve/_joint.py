"""Joint majorisation: W and H from one ratio of counts and model."""

from ._solver import AbstractSolver
from ._steps import step_abundances
from ._updates import doses, minimise_weights


class JointMultiplicativeUpdate(AbstractSolver[None]):
    """Updates W and H at once from the same ratio `R = Y / GWH`; never increases the objective.

    With the shares `G[c, j] W'[j, a] H'[a, p] / (G W' H')[c, p]` of the current point, marked by
    a prime, Jensen's inequality bounds the NLL above for both factors jointly (Marmin, Goulart &
    Févotte, Signal Processing 210 (2023) 109048) by

        sum_a s_a(W) t_a(H) - sum(M log W) - sum(N log H) + constant,

    where `s_a = sum_cj G[c, j] W[j, a]` and `t_a = sum_p exposure[p] H[a, p]`, and
    `M = W' * (Gᵀ R H'ᵀ)` and `N = H' * ((G W')ᵀ R)` share out the same counts. Splitting the
    products `s_a t_a` as well, by `2 x y <= x² + y²`, would make every update the square root of
    the plain one. They are kept whole instead: the bound is minimised over H at W', which is the
    plain update of H, and then over W at the new H, which is the plain update of W but for R,
    which is still that of W' and H'. Both steps lower the bound. Without constraint, penalty and
    fixed entries they end in its joint minimum, the step of expectation maximisation in
    probabilistic latent semantic analysis (Hofmann, UAI (1999) 289).

    Constraints, fixed entries and the surrogate of a regulariser enter as in the plain updates.
    The two passes over the counts do not wait for each other. As R is older when W is updated,
    a step gains a little less than one of `MultiplicativeUpdate`.
    """

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        counts, basis = problem.counts, problem.basis
        ratio = counts.channel_pass(basis.endmembers(weights), abundances)
        new_abundances = step_abundances(problem, weights, abundances)
        new_weights = minimise_weights(
            basis,
            weights * basis.back_project(ratio),
            doses(counts, new_abundances),
            weights,
            constraint=problem.constraint,
            fixed=problem.fixed_weights,
        )
        return new_weights, new_abundances, state
