#!/usr/bin/env python3
"""make_rnn_fixture.py - numbers of PyTorch's RNN, LSTM and GRU for src/ops/rnn/rnn_test.c: outputs,
last states, and the gradients of sum(outputs * seed). Prints C; needs torch."""
import torch

H, T = 3, 4


def numbers(n, a, b):
    """The same simple sequence as the test's: exact in binary."""
    return torch.tensor([((i * a + b) % 17 - 8) / 16 for i in range(n)], dtype=torch.float64)


def emit(name, t):
    print(f"    .{name} = {{{', '.join(f'{v:.15g}' for v in t.reshape(-1).tolist())}}},")


for name, kind, gates in (("tanh", torch.nn.RNN(H, H), 1), ("relu", torch.nn.RNN(
        H, H, nonlinearity="relu"), 1), ("lstm", torch.nn.LSTM(4 * H, H), 4),
        ("gru", torch.nn.GRU(3 * H, H), 3)):
    n = gates * H
    net = kind.double()
    with torch.no_grad():  # W_ih is the identity: x itself is what the op is given
        net.weight_ih_l0.copy_(torch.eye(n))
        net.bias_ih_l0.zero_()
        net.weight_hh_l0.copy_(numbers(n * H, 5, 3).reshape(n, H))
        net.bias_hh_l0.copy_(numbers(n, 7, 1))
    x = numbers(T * n, 11, 6).reshape(T, 1, n).requires_grad_()
    h = numbers(H, 3, 2).reshape(1, 1, H).requires_grad_()
    c = numbers(H, 9, 5).reshape(1, 1, H).requires_grad_()
    y, last = net(x, (h, c) if name == "lstm" else h)
    (y.reshape(-1) * numbers(T * H, 13, 4)).sum().backward()
    states = torch.cat(list(last)) if name == "lstm" else last
    print(f"{{.name = \"{name}\",")
    emit("y", y)
    emit("last", states)
    emit("dx", x.grad)
    emit("dw", net.weight_hh_l0.grad)
    emit("db", net.bias_hh_l0.grad)
    emit("dh", torch.cat([h.grad, c.grad]) if name == "lstm" else h.grad)
    print("},")
