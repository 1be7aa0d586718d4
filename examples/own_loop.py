"""ModAlign's objective in a plain PyTorch loop of one's own: the lines between the marks are all there is to it.

On these digits it does not help, and does no harm: 91.1, 90.5, 90.8 % with it and 91.3, 90.6, 90.8 % without (seeds
0 to 2). Where it does, only both modalities together tell the class, and the critic is heard in the answer
(docs/howto/own-loop.md).

Run: python examples/own_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from modalign.information import LearnedContext, SeparableCritic, guarded_gradients, ramp, score_pairs

torch.manual_seed(0)
images, labels = (torch.as_tensor(a) for a in (load_digits().images, load_digits().target))
left, right = images[:, :, :4].flatten(1).float() / 16, images[:, :, 4:].flatten(1).float() / 16
train, test = torch.arange(len(labels)) < 1200, torch.arange(len(labels)) >= 1200

encoders = nn.ModuleList([nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)) for _ in range(2)])
head = nn.Linear(64, 10)
optimizer = torch.optim.AdamW([*encoders.parameters(), *head.parameters()], lr=3e-3)

critic = SeparableCritic((32, 32), LearnedContext(10))  # h(z1, z2, T), with T the label
critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-3)

steps = 300
for step in range(steps):
    batch = torch.randint(int(train.sum()), (128,))
    y = labels[batch]
    z = [encoder(x[batch]) for encoder, x in zip(encoders, (left, right), strict=True)]
    task = nn.functional.cross_entropy(head(torch.cat(z, dim=1)), y)
    optimizer.zero_grad()
    # -- ModAlign: Algorithm 1 --------------------------------------------------------------------------------
    seen = score_pairs(critic, z[0].detach(), z[1].detach(), context=y)  # h learns from features as they are
    critic_optimizer.zero_grad()
    (-seen.objective / (1 + seen.ratio)).backward()
    critic_optimizer.step()
    pairs = score_pairs(critic, z[0], z[1], context=y)  # the encoders follow the updated h ...
    pull = -ramp(step / steps) * pairs.objective / (1 + pairs.ratio)
    bounded = guarded_gradients(z, pull, task, rho=0.3)  # ... within the protective margin
    torch.autograd.backward([task, *z], [None, *bounded.gradients])
    # ---------------------------------------------------------------------------------------------------------
    optimizer.step()
    if (step + 1) % 100 == 0:
        shared = seen.information.item()
        print(f"step {step + 1}: task {task.item():.3f}, I(Z1;Z2|T) about {shared:.2f} nats on this batch")

with torch.no_grad():
    scores = head(torch.cat([encoder(x[test]) for encoder, x in zip(encoders, (left, right), strict=True)], dim=1))
    print(f"test accuracy {(scores.argmax(1) == labels[test]).float().mean():.3f}")
