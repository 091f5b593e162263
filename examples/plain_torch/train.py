"""Two spirals, a small network, plain PyTorch. This script knows nothing of `ablate`."""

import argparse
import math
import os

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.02)
parser.add_argument("--activation", choices=["tanh", "identity"], default="identity")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--save", default="checkpoint.pt")
parser.add_argument("--resume")
args = parser.parse_args()

torch.manual_seed(args.seed)
torch.set_num_threads(1)
radius = torch.rand(400).sqrt()
label = torch.arange(400) % 2
angle = 2 * math.pi * radius + math.pi * label
points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1) + 0.02 * torch.randn(400, 2)
train, test = slice(0, 300), slice(300, 400)

activation = {"tanh": nn.Tanh, "identity": nn.Identity}[args.activation]
model = nn.Sequential(nn.Linear(2, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
first = 1
if args.resume:
    state = torch.load(args.resume)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    first = state["step"] + 1

for step in range(first, args.steps + 1):
    loss = nn.functional.cross_entropy(model(points[train]), label[train])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.6f}")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, f"{args.save}.part")
        os.replace(f"{args.save}.part", args.save)

with torch.no_grad():
    right = (model(points[test]).argmax(dim=1) == label[test]).float().mean().item()
print(f"test accuracy {right:.4f}")
