"""How the backward pass goes through norms, attention and MLPs: one object per rule.

A rule leaves the forward pass as it is and changes what is passed back: the *slope* of a
nonlinearity is replaced by another coefficient. Engines and the edge oracle ask these objects. To
add a rule, write its class here and list it in :data:`RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec, nearest
from circuitbench.models.forward import activate, normalize
from circuitbench.oracle.attention import attention


class Attended(NamedTuple):
    """Queries, and the keys they can attend to, of the same heads on other text.

    Args:
        q: ``[batch, n_heads, query, d_head]``.
        k: ``[batch, n_heads, key, d_head]``.
    """

    q: Tensor
    k: Tensor


class Rule:
    """The true gradient; other rules override what they change.

    Attributes:
        name: in settings and records.
        changes: what the backward pass does instead, in a few words.
        reference: whether :meth:`attention` needs the queries and keys of the text at the other
            end (the counterfactual prompts; in denoising the prompts).
        dropped: a layer (attention and MLP) that nothing is passed back through, or None.
    """

    name = "exact"
    changes = "nothing: the true gradient"
    reference = False
    dropped: int | None = None

    def norm(self, x: Tensor, kind: str, eps: float) -> Tensor:
        """The norm of ``[..., d_model]`` without its scale and shift."""
        return normalize(x, kind, eps)

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, reference: Attended | None
    ) -> Tensor:
        """Head outputs ``[batch, n_heads, query, d_head]``; the scale is in the queries.

        Args:
            q: ``[batch, n_heads, query, d_head]``.
            k, v: ``[batch, n_heads, key, d_head]``.
            allowed: bool, broadcast to ``[batch, n_heads, query, key]``: what may be attended to;
                None where query and key positions are the same and attention is causal.
            reference: where :attr:`reference` is True.
        """
        return attention(q, k, v, allowed)

    def activation(self, x: Tensor, kind: str) -> Tensor:
        """The MLP's nonlinearity."""
        return activate(x, kind)

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """The product of a gated MLP; ``gate`` has been through the activation."""
        return gate * up

    def after(self, layer: int, before: Tensor, x: Tensor) -> Tensor:
        """The residual stream after a layer, ``x``, from that ``before`` it."""
        return before + (x - before).detach() if layer == self.dropped else x

    def dropping(self, layer: int) -> Rule:
        """This rule with nothing passed back through one layer's attention and MLP.

        One term of GradDrop (Kramár et al. 2024, arXiv 2403.00745, section 3.2.2).
        """
        rule = copy(self)
        rule.dropped = layer
        return rule


class _FrozenNorm(Rule):
    """What is divided by in a norm is a constant; subtracting the mean stays differentiable."""

    def norm(self, x: Tensor, kind: str, eps: float) -> Tensor:
        """See :meth:`Rule.norm`."""
        if kind == "layer":
            x = x - x.mean(-1, keepdim=True)
        elif kind != "rms":
            return x
        scale: Tensor = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        return x * scale.detach()


class Gim(_FrozenNorm):
    """Gradient interaction modifications (Edin et al. 2025, arXiv 2505.17630).

    Norms are frozen, the softmax of attention is differentiated at a higher temperature (the
    slope of ``softmax(scores / 2)`` without the factor 1/2, as the authors' package has it), and
    where activations are multiplied each gets its share: what goes back to queries and keys is
    quartered, to values halved, to both factors of a gated MLP halved.
    """

    name = "gim"
    changes = "frozen norms, softmax at temperature 2, q and k x 1/4, v, gate and up x 1/2"
    temperature = 2.0

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, reference: Attended | None
    ) -> Tensor:
        """See :meth:`Rule.attention`."""
        scores = _scores(_share(q, 0.25), _share(k, 0.25), allowed)
        pattern: Tensor = _WarmSoftmax.apply(scores, self.temperature)  # type: ignore[no-untyped-call]  # by torch
        return pattern @ _share(v, 0.5)

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """See :meth:`Rule.gated`."""
        return _share(gate, 0.5) * _share(up, 0.5)


class RelP(_FrozenNorm):
    """Relevance patching (Rezaei Jafari et al. 2025, arXiv 2508.21258): coefficients of LRP.

    The LN-rule takes a norm's divisor as a constant, the identity rule an activation ``f(x)`` as
    ``x * (f(x) / x)`` with a constant quotient, the half rule halves what goes back to both
    factors of a gated MLP. Attention is differentiated as it is, as the authors do on GPT-2.
    """

    name = "relp"
    changes = "frozen norms, activations as x times a constant f(x) / x, gate and up x 1/2"

    def activation(self, x: Tensor, kind: str) -> Tensor:
        """See :meth:`Rule.activation`."""
        with torch.no_grad():
            away = torch.where(x.abs() < 1e-6, torch.full_like(x, 1e-6), x)
            quotient = activate(away, kind) / away
        # The value is the activation's own, to the last bit.
        return activate(x, kind).detach() + quotient * (x - x.detach())

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """See :meth:`Rule.gated`."""
        return _share(gate, 0.5) * _share(up, 0.5)


class RelPFrozen(RelP):
    """:class:`RelP` with the AH-rule: the attention pattern is a constant (Ali et al. 2022)."""

    name = "relp-frozen"
    changes = "as relp, and the attention pattern is a constant: nothing goes back to q and k"

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, reference: Attended | None
    ) -> Tensor:
        """See :meth:`Rule.attention`."""
        return _scores(q, k, allowed).softmax(-1).detach() @ v


class AtPQK(Rule):
    """The QK fix of AtP* (Kramár et al. 2024, arXiv 2403.00745, section 3.2.1).

    A saturated softmax has no slope, so what patching a query or a key would do goes unseen. Its
    slope is replaced by the secant to the counterfactual: what goes back to a query, times its
    change, is what the pattern with that query alone patched would bring (equation 7); what goes
    back to a key, times its change, is that with this one key patched (equation 9).

    Where one key's score changes by ``d``, from weight ``p`` to ``p'``, its score gets
    ``(p' - p) / d * (g - g_others)``, with ``g`` the derivative by its weight and ``g_others`` that
    by the others', weighted. A query's scores get the true derivative, corrected along their
    change alone (Broyden's rank-one correction): the smallest correction by which the secant is
    exact.

    It departs from the paper in one thing: there the fix is for the attributed query or key, and
    the gradient that comes from above is the true one; here it holds wherever the backward pass
    goes through a softmax. So heads and edges that act through later heads' queries and keys have
    it too.
    """

    name = "atp-qk"
    changes = "softmax by its secant to the counterfactual, for queries and for single keys"
    reference = True

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, reference: Attended | None
    ) -> Tensor:
        """See :meth:`Rule.attention`."""
        assert reference is not None  # asked for by the attribute
        pattern: Tensor = _SecantPattern.apply(q, k, allowed, *reference)  # type: ignore[no-untyped-call]  # by torch
        return pattern @ v


EXACT = Rule()
RULES: dict[str, Rule] = {r.name: r for r in (EXACT, Gim(), RelP(), RelPFrozen(), AtPQK())}


def rule_named(name: str | Rule) -> Rule:
    """The rule of a name (a rule is itself); raises :class:`InvalidSpec` naming the nearest."""
    if isinstance(name, Rule):
        return name
    if name not in RULES:
        raise InvalidSpec(f"no backward rule {name!r}; {nearest(str(name), RULES)}")
    return RULES[name]


class _Checked:
    """Has pydantic check a name; pydantic itself is not imported before that."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(lambda name: rule_named(name).name, handler(source))


RuleName = Annotated[str, _Checked()]
"""The type of a setting that names a backward rule; :func:`rule_named` checks it."""


def _scores(q: Tensor, k: Tensor, allowed: Tensor | None) -> Tensor:
    """Attention scores ``[..., query, key]``, minus infinity where nothing may be seen."""
    scores = q @ k.transpose(-1, -2)
    if allowed is None:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    return scores.masked_fill(~allowed, -torch.inf)


def _share(x: Tensor, share: float) -> Tensor:
    """``x``, to which only a share of the gradient goes back."""
    return x.detach() + share * (x - x.detach())


class _WarmSoftmax(torch.autograd.Function):
    """Softmax over the last dimension, differentiated at the scores divided by a temperature."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward((scores / temperature).softmax(-1))
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (warm,) = ctx.saved_tensors
        return warm * (grads[0] - (warm * grads[0]).sum(-1, keepdim=True)), None


class _SecantPattern(torch.autograd.Function):
    """The attention pattern, differentiated by :class:`AtPQK`."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, allowed: Tensor | None, other_q: Tensor, other_k: Tensor
    ) -> Tensor:
        ctx.allowed = allowed
        ctx.save_for_backward(q, k, other_q, other_k)
        return _scores(q, k, allowed).softmax(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        q, k, other_q, other_k = ctx.saved_tensors
        grad, scores = grads[0].double(), _scores(q, k, ctx.allowed).double()
        by_query = _scores(other_q, k, ctx.allowed).double()
        by_key = _scores(q, other_k, ctx.allowed).double()
        seen, pattern = scores > -torch.inf, scores.softmax(-1)
        query_change, key_change = (
            torch.where(seen, there - scores, 0.0) for there in (by_query, by_key)
        )
        mean = (pattern * grad).sum(-1, keepdim=True)
        slope = pattern * (grad - mean)
        moved = by_query.softmax(-1) - pattern
        gap = (moved * grad - slope * query_change).sum(-1, keepdim=True)
        size = query_change.square().sum(-1, keepdim=True)
        to_query = slope + gap * query_change / size.clamp_min(1e-300)
        # One key against all others together: its weight is a sigmoid of its score. What the
        # others add up to is lost where the best one has it all, so there it is summed anew.
        best = torch.zeros_like(seen).scatter(-1, scores.argmax(-1, keepdim=True), True)
        without = scores.masked_fill(best, -torch.inf)
        total, rest = (s.logsumexp(-1, keepdim=True) for s in (scores, without))
        share = torch.where(best, 0.0, pattern)
        others = torch.where(best, rest, total + torch.log1p(-share))
        others_mean = torch.where(
            best,
            (without.softmax(-1).nan_to_num(0.0) * grad).sum(-1, keepdim=True),
            (mean - share * grad) / (1 - share),
        )
        here, there = torch.sigmoid(scores - others), torch.sigmoid(by_key - others)
        still = key_change.abs() < 1e-6
        rate = torch.where(
            still, here * (1 - here), (there - here) / torch.where(still, 1.0, key_change)
        )
        to_key = torch.where(seen, rate, 0.0) * (grad - others_mean)
        back = to_query.to(k.dtype) @ k, to_key.to(q.dtype).transpose(-1, -2) @ q
        return *back, None, None, None
