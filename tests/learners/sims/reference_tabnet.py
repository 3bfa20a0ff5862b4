"""The reference implementation of TabNet, for comparison only."""

import re

import torch
from pytorch_tabnet.tab_network import TabNet as ReferenceTabNet

from neurofleet.learners.sims.tabnet import TabNet
from neurofleet.learners.sims.tabnet_settings import Shape


def reference(n_genes: int, n_classes: int, shape: Shape) -> ReferenceTabNet:
    return ReferenceTabNet(
        n_genes,
        n_classes,
        n_d=shape.n_d,
        n_a=shape.n_a,
        n_steps=shape.n_steps,
        gamma=shape.gamma,
        n_independent=shape.n_independent,
        n_shared=shape.n_shared,
        epsilon=1e-15,
        virtual_batch_size=shape.virtual_batch_size,
        momentum=shape.momentum,
        mask_type="sparsemax" if shape.mask == "sparsemax" else "entmax",
        group_attention_matrix=torch.eye(n_genes, dtype=torch.get_default_dtype()),
    )


def copy_weights(theirs: ReferenceTabNet, ours: TabNet) -> None:
    """Copy every tensor of the reference; each of ours is set, or this fails."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        if name.startswith("embedder."):
            continue
        state[our_name(name)] = tensor
    state.pop("unused")
    ours.load_state_dict(state, strict=True)


def our_name(name: str) -> str:
    name = name.removeprefix("tabnet.")
    if name.startswith("initial_bn"):
        return "unused"
    if name.startswith("final_mapping"):
        return name.replace("final_mapping", "head")
    if name.startswith("encoder.initial_bn"):
        return name.replace("encoder.initial_bn", "input_norm")
    for theirs, ours in (
        ("initial_splitter", "splitter"),
        ("feat_transformers", "steps"),
        ("att_transformers", "attention"),
        (".fc.", ".linear."),
        (".bn.bn.", ".norm.norm."),
        ("splitter.shared.shared_layers.", "shared."),
        (".shared.glu_layers.", ".shared."),
        (".specifics.glu_layers.", ".own."),
        (".bn.", ".norm."),
    ):
        name = name.replace(theirs, ours)
    return re.sub(r"steps\.\d+\.shared\.shared_layers\.", "shared.", name)
