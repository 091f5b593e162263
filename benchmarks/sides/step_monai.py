"""The plain form of the same step: MONAI's ViT, a forward pass for each size of crops, the DINO loss in a loop over pairs of views.

As the published loop does it: the student sees both sizes one after the other, the teacher the global crops; the head follows; the loss
loops over pairs of a teacher's and another student's view; AdamW, norm clipping and the teacher's average parameter by parameter.
"""

from __future__ import annotations

import copy
import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import ViT
from torch import Tensor, nn

from benchmarks.side import Answer, serve, settings, timed

asked = settings()
torch.set_num_threads(asked["threads"])
torch.manual_seed(0)
SIZE: dict[str, Any] = asked["model"]
CLS: bool = asked["cls"]


class Backbone(nn.Module):
    """MONAI's network; for crops smaller than the global ones its learned positions are resized, which it does not do itself."""

    def __init__(self) -> None:
        super().__init__()
        edge, patch, dim = SIZE["global"], SIZE["patch"], SIZE["dim"]
        size = ((edge,) * 3, (patch,) * 3, dim, 4 * dim, SIZE["depth"], SIZE["heads"])
        self.vit = ViT(1, *size, proj_type="conv", qkv_bias=True, classification=CLS)
        if CLS:
            self.vit.classification_head = nn.Identity()
        self.grid = edge // patch

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] == SIZE["global"]:
            found = self.vit(images)[0]
            return found if CLS else found.mean(dim=1)
        embedding = self.vit.patch_embedding
        tokens = embedding.patch_embeddings(images).flatten(2).transpose(1, 2)
        table = embedding.position_embeddings.transpose(1, 2).unflatten(2, (self.grid,) * 3)
        positions = F.interpolate(table, size=(images.shape[-1] // SIZE["patch"],) * 3, mode="trilinear").flatten(2).transpose(1, 2)
        tokens = tokens + positions
        if CLS:
            tokens = torch.cat([self.vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.vit.blocks:
            tokens = block(tokens)
        tokens = self.vit.norm(tokens)
        return tokens[:, 0] if CLS else tokens.mean(dim=1)


class Net(nn.Module):
    """Backbone and head."""

    def __init__(self) -> None:
        super().__init__()
        dim, hidden, bottleneck = SIZE["dim"], SIZE["head_hidden"], SIZE["bottleneck"]
        self.backbone = Backbone()
        self.mlp = nn.Sequential(
            nn.BatchNorm1d(dim, affine=False),
            *(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)),
        )
        self.prototypes = nn.Parameter(torch.randn(SIZE["prototypes"], bottleneck) * 0.02)

    def forward(self, groups: list[Tensor]) -> Tensor:
        features = torch.cat([self.backbone(group) for group in groups])
        return F.linear(F.normalize(self.mlp(features), dim=-1), F.normalize(self.prototypes, dim=-1))


def balanced(logits: Tensor) -> Tensor:
    """Sinkhorn-Knopp, three iterations, temperature .02."""
    q = torch.exp((logits - logits.max()) / 0.02).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(dim=1, keepdim=True) * q.shape[0]
        q /= q.sum(dim=0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).T


student = Net()
teacher = copy.deepcopy(student).requires_grad_(False)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.04)
crops: dict[str, np.ndarray] = {}


def augmented(kind: str, at: int) -> Tensor:
    """View by view; windowed to +-400 HU, scaled by .1 and shifted by .02 of a normal number."""
    images = torch.from_numpy(crops[f"{kind}s"][at]).float().transpose(0, 1).flatten(0, 1)
    numbers = torch.from_numpy(crops[f"{kind}_changes"][at]).float().transpose(0, 1).flatten(0, 1)[:, :, None, None, None, None]
    return (images / 400).clamp(-1, 1) * (1 + 0.1 * numbers[:, 0]) + 0.02 * numbers[:, 1]


def step(at: int) -> None:
    """One update."""
    groups = [augmented("global", at), augmented("local", at)]
    with torch.no_grad():
        targets = balanced(teacher(groups[:1])).chunk(2)
    views = (student(groups) / 0.1).chunk(2 + crops["locals"].shape[2])
    loss, terms = torch.zeros(()), 0
    for i, target in enumerate(targets):
        for j, view in enumerate(views):
            if i != j:
                loss, terms = loss - (target * F.log_softmax(view, dim=-1)).sum(dim=-1).mean(), terms + 1
    loss = loss / terms
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), 3.0)
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
            slow.mul_(0.99).add_(fast, alpha=0.01)


def answer(question: dict[str, Any]) -> Answer:
    if "ready" in question:
        crops.update(np.load(Path(asked["folder"]) / "crops.npz"))
        for _ in range(3):  # memory is asked for, torch imports its compiler
            step(0)
        return {}
    at = iter(range(1, 1 + question["steps"]))
    found = timed(lambda: step(next(at) % len(crops["globals"])), question["steps"])
    parameters = float(sum(p.numel() for p in student.parameters()))
    return found | {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "parameters": parameters}


if __name__ == "__main__":
    serve(answer)
