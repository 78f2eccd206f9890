#!/usr/bin/env python3
# make_mamba3_fixtures.py - writes tests/data/mamba3_*: tiny random models of Mamba-3 as the
# original implementation publishes them, each with logits, loss and gradients
# (expected.safetensors) in double precision, by the formulas of its two references written out
# here: the step, one token after the other, and the parallel form, all tokens as one matrix.
# Nothing is written unless the two agree to 1e-12.
#
# The files are committed, and mamba_reference_test.c compares against them; run this only to make
# them anew. Needs: pip install torch safetensors.
import math

import torch
import torch.nn.functional as F

import fixtures


class Mamba3(fixtures.Original):
    def __init__(self, vocabulary, width, layers, head_dim, state, groups, angles, rank, norm,
                 mlp):
        self.sizes = 2 * width, head_dim, state, groups, angles, max(rank, 1)
        self.mimo, self.norm, self.parallel = rank > 0, norm, False
        super().__init__(vocabulary, width, layers, mlp)

    def declare(self, m, width):
        E, P, N, G, S, R = self.sizes
        H = E // P
        self.add(m + "in_proj.weight", 2 * E + 2 * R * G * N + 3 * H + S, width)
        self.add(m + "dt_bias", H)
        for key in "BC":
            self.add(m + f"{key}_norm.weight", N)
            self.add(m + f"{key}_bias", H, R, N)
        self.add(m + "D", H)
        for which in "xzo" if self.mimo else "":
            self.add(m + f"mimo_{which}", H, R, P)
        if self.norm:
            self.add(m + "norm.weight", E)
        self.add(m + "out_proj.weight", width, E)

    def turn(self, v, phi):
        """v [B,T,R,H,N] by phi [B,T,H,S]: neighbours (SISO), or one from each half (MIMO)."""
        N, S = v.shape[-1], phi.shape[-1]
        first = torch.arange(S) if self.mimo else 2 * torch.arange(S)
        second = first + (N // 2 if self.mimo else 1)
        p, q, c, s = v[..., first], v[..., second], phi.cos()[:, :, None], phi.sin()[:, :, None]
        v = v.clone()
        v[..., first], v[..., second] = p * c - q * s, p * s + q * c
        return v

    def keys(self, x, m, key, phi):
        _, _, N, G, _, R = self.sizes
        H = phi.shape[2]
        x = self.rms(x.unflatten(-1, (R, G, N))) * self.names[m + f"{key}_norm.weight"]
        x = x.repeat_interleave(H // G, -2)
        return self.turn(x + self.names[m + f"{key}_bias"].transpose(0, 1), phi)

    def mixer(self, a, m):
        E, P, N, G, S, R = self.sizes
        H, w = E // P, lambda name: self.names[m + name]
        z, x, b, c, dt, rate, mix, angle = (a @ w("in_proj.weight").T).split(
            [E, E, R * G * N, R * G * N, H, H, H, S], -1)
        dt, mix = F.softplus(dt + w("dt_bias")), torch.sigmoid(mix)
        rate = torch.where(rate >= 0, 1 + rate, 1 / (1 - rate.clamp(max=0)))
        log = -rate.clamp(min=1e-4) * dt
        phi = (math.pi * torch.tanh(angle)[:, :, None] * dt[..., None]).cumsum(1)
        k, q = self.keys(b, m, "B", phi), self.keys(c, m, "C", phi)
        x, z = x.unflatten(-1, (H, P)), z.unflatten(-1, (H, P))
        ranks = lambda v, which: v[:, :, None] * (
            w(f"mimo_{which}").transpose(0, 1) if self.mimo else 1)  # [B,T,R,H,P]
        v, gate = ranks(x, "x"), F.silu(ranks(z, "z"))
        form = parallel if self.parallel else step
        y = form(q, k, v, dt, log, mix) + w("D")[:, None] * v
        if self.norm:
            y = self.rms(y) * w("norm.weight").view(H, P)
        o = y * gate
        o = (o * w("mimo_o").transpose(0, 1)).sum(2) if self.mimo else o[:, :, 0]
        return o.flatten(-2) @ w("out_proj.weight").T


def step(q, k, v, dt, log, mix):
    """The recurrence: q, k [B,T,R,H,N], v [B,T,R,H,P], steps, log decays and mixes [B,T,H]."""
    outer = torch.einsum("btrhp,btrhn->bthpn", v, k)
    before = torch.cat([torch.zeros_like(outer[:, :1]), outer[:, :-1]], 1)
    h, y = torch.zeros_like(outer[:, 0]), []
    for t in range(q.shape[1]):
        alpha = log[:, t].exp()
        beta, gamma = (1 - mix[:, t]) * dt[:, t] * alpha, mix[:, t] * dt[:, t]
        h = (h * alpha[..., None, None] + before[:, t] * beta[..., None, None]
             + outer[:, t] * gamma[..., None, None])
        y.append(torch.einsum("bhpn,brhn->brhp", h, q[:, t]))
    return torch.stack(y, 1)


def parallel(q, k, v, dt, log, mix):
    """The same as masked scores: each input weighs for its own step and the next one's, and what
    belongs to the next is taken from its own."""
    T, total = q.shape[1], log.cumsum(1)
    later = torch.cat([(dt * (1 - mix))[:, 1:], torch.zeros_like(dt[:, :1])], 1)
    scale = mix * dt + later
    decay = (total[:, :, None] - total[:, None]).transpose(1, 3).transpose(2, 3)  # [B,H,t,s]
    decay = decay.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf).exp()
    scores = torch.einsum("btqhn,bsrhn->bhtqsr", q, k)
    y = torch.einsum("bhtqsr,bhts,bsh,bsrhp->btqhp", scores, decay, scale, v)
    own = torch.einsum("btqhn,btrhn,btrhp->btqhp", q, k, v)
    return y - later[:, :, None, :, None] * own


def own_values(name, noise):
    if name.endswith("dt_bias"):
        return noise - 1.0
    if name.endswith(("B_bias", "C_bias", "mimo_x", "mimo_z", "mimo_o")):
        return 1 + 0.5 * noise
    return None


def original(name, seed, state, groups, angles, ssm, rank=0, norm=False, mlp=0):
    folder = fixtures.fresh(name)
    used, padded, width, layers, head_dim = 29, 32, 18, 2, 6
    model = Mamba3(padded, width, layers, head_dim, state, groups, angles, rank, norm,
                   mlp)
    fixtures.randomise(model.named_parameters(), seed, own_values)
    model.double()
    ssm = {"layer": "Mamba3", "d_state": state, "headdim": head_dim, "ngroups": groups,
           "is_mimo": rank > 0, "is_outproj_norm": norm} | ssm
    if rank:
        ssm["mimo_rank"] = rank
    fixtures.save_state_spaces(model, folder,
                               fixtures.state_spaces_config(width, layers, used, ssm, mlp))
    ids = fixtures.token_ids(used, seed)
    with torch.no_grad():
        one = model(ids).logits
        model.parallel = True
        apart = (model(ids).logits - one).abs().max() / one.abs().max()
        model.parallel = False
    print(f"{name}: step and parallel forms differ by {apart:.1e}")
    assert apart < 1e-12
    fixtures.save_expected(model, ids, folder)


def main():
    original("mamba3_siso", 21, 10, 2, 2, {})
    original("mamba3_siso_norm", 22, 7, 1, 3, {"rope_fraction": 1.0, "chunk_size": 64}, norm=True)
    original("mamba3_mimo", 23, 8, 1, 2, {"chunk_size": 16}, rank=4)
    original("mamba3_mimo_norm", 24, 6, 3, 3, {"rope_fraction": 1.0}, rank=2, norm=True,
             mlp=100)


if __name__ == "__main__":
    main()
