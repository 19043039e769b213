"""The other side of peers.py: run by it, with an interpreter that has auto-circuit 1.0.1.

``python peers_auto_circuit.py CASE ANSWER`` reads a model, prompts and thresholds, and writes
auto-circuit's scores of edges and the edges its ACDC keeps.
"""

import json
import sys

import torch
from auto_circuit.data import PromptPairBatch
from auto_circuit.prune_algos.ACDC import acdc_prune_scores
from auto_circuit.prune_algos.edge_attribution_patching import (
    edge_attribution_patching_prune_scores,
)
from auto_circuit.utils.graph_utils import patchable_model
from transformer_lens import HookedTransformer, HookedTransformerConfig


def main(case_file: str, answer_file: str) -> None:
    torch.set_num_threads(1)
    case = torch.load(case_file, weights_only=True)
    config = HookedTransformerConfig(
        **case["config"],
        eps=case["eps"],
        attn_scale=case["scale"],
        act_fn="gelu_new",
        normalization_type="LN",
        device="cpu",
    )
    model = HookedTransformer(config)
    _, unknown = model.load_state_dict(case["state"], strict=False)  # it has buffers besides
    assert not unknown, unknown
    model.cfg.use_attn_result = True
    model.cfg.use_split_qkv_input = True
    model.cfg.use_hook_mlp_in = True
    patchable = patchable_model(
        model, factorized=True, slice_output="last_seq", separate_qkv=True, device="cpu"
    )
    answers = case["answers"]
    batch = PromptPairBatch(
        key=0,
        batch_diverge_idx=0,
        clean=case["clean"],
        corrupt=case["corrupt"],
        answers=answers[:, :1],
        wrong_answers=answers[:, 1:],
    )
    found = edge_attribution_patching_prune_scores(patchable, [batch], None)
    eap = {edge.name: float(edge.prune_score(found)) for edge in patchable.edges}
    # Its edges are a set, sorted by layer alone: within a layer the order is arbitrary, and ACDC
    # depends on it. So it is given ours.
    named = {edge.name: edge for edge in patchable.edges}
    patchable.edges = [named[name] for name in case["order"]]
    acdc = {}
    for threshold in case["thresholds"]:
        scores = acdc_prune_scores(patchable, [batch], None, tao_exps=[0], tao_bases=[threshold])
        kept = [edge.name for edge in patchable.edges if torch.isinf(edge.prune_score(scores))]
        acdc[str(threshold)] = kept
    with open(answer_file, "w", encoding="utf-8") as file:
        json.dump({"eap": eap, "acdc": acdc}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
