#!/usr/bin/env python3
# plot.py - curves and dots as SVG, from files of numbers: how every picture of docs/results is
# drawn. Needs nothing but Python; the file holds its own colours for light and dark surroundings.
#
#   plot.py OUT.svg --title TEXT [--subtitle TEXT] --x LABEL --y LABEL [--log-x] [--log-y]
#           [--x-range LOW:HIGH] [--y-range LOW:HIGH] [--height PIXELS]
#           LABEL=FILE[:STYLE[:COLOUR]] ...
#
# FILE has two numbers a line, x and y ("nan" breaks a line). STYLE is line (the default), thin,
# wide, dashed, dots, rings, or both (a line with a dot at each point). COLOUR is 0 to 7; without
# it, the place in the list. Labels stand at the ends of lines; a label that begins with "-" is not
# drawn. report.py uses the functions.
import argparse
import math
from html import escape

# The palette of Okabe and Ito, which people of every colour vision tell apart; on dark, lighter.
LIGHT = ["#0072b2", "#d55e00", "#007d5b", "#b0578d", "#a06c00", "#4a4f55", "#3b8fc4", "#8a3b12"]
DARK = ["#5bb4ea", "#f58a4b", "#35c79c", "#e39bc6", "#e9b44c", "#b4bac2", "#9fd3f5", "#e0a184"]
WIDTH, TOP, BOTTOM, LEFT = 760, 94, 52, 62
FONT = "system-ui,-apple-system,'Segoe UI','Helvetica Neue',Arial,'DejaVu Sans',sans-serif"


def style():
    def rules(colours, ground, text, soft, grid):
        out = [f".g{{fill:{ground}}}.t{{fill:{text}}}.s{{fill:{soft}}}.r{{stroke:{grid}}}"]
        for i, c in enumerate(colours):
            out.append(f".c{i}{{stroke:{c}}}.f{i}{{fill:{c}}}")
        return "".join(out)
    light = rules(LIGHT, "#ffffff", "#1c2126", "#59626b", "#e3e6e9")
    dark = rules(DARK, "#14181d", "#e8ebee", "#a3acb5", "#2c333a")
    return (f"<style>text{{font-family:{FONT}}}path{{fill:none;stroke-linejoin:round;"
            f"stroke-linecap:round}}{light}@media(prefers-color-scheme:dark){{{dark}}}</style>")


# ---- axes ----------------------------------------------------------------------------------------

def number(v):
    """A tick's text: plain where that is short, else a power of ten."""
    if v == 0:
        return "0"
    power = math.floor(math.log10(abs(v)) + 1e-9)
    if 4 <= power < 12:
        size, unit = next(u for u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(v) >= u[0])
        return f"{v / size:.4g} {unit}".replace("-", "\u2212")
    if -4 < power < 4:
        text = f"{v:,.{max(0, 2 - power) if power < 3 else 0}f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "\u2212")
    digits = str(power).translate(str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3"
                                                "\u2074\u2075\u2076\u2077\u2078\u2079"))
    lead = v / 10 ** power
    return f"10{digits}" if abs(lead - 1) < 1e-6 else f"{lead:.3g}\u00b710{digits}"


def linear_ticks(low, high, count):
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= count + 1e-9)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low, high, count):
    """Decades, every k-th where there are many; their 2 and 5 where there are few; powers of two
    where both ends are."""
    a, b = math.log2(low), math.log2(high)
    if low >= 1 and abs(a - round(a)) < 1e-9 and abs(b - round(b)) < 1e-9:
        every = max(1, math.ceil((b - a + 1) / (count + 2)))
        return [2.0 ** i for i in range(round(a), round(b) + 1, every)]
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, math.ceil((last - first + 1) / count))
    marks = (1,) if last - first >= 2 else (1, 2, 5)
    ticks = [m * 10.0 ** i for i in range(first - 1, last + 1) for m in marks
             if i % every == 0 or m > 1]
    return [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


class Axis:
    def __init__(self, values, log, wanted, start, end, count, tight=False):
        self.log, self.start, self.end = log, start, end
        good = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        self.low, self.high = (min(good), max(good)) if good else (1, 2)
        if wanted:
            self.low, self.high = wanted
        if self.low == self.high:
            self.low, self.high = (self.low / 2, self.high * 2) if log else (
                self.low - 0.5, self.high + 0.5)
        if not wanted and not tight and not log:
            room = 0.04 * (self.high - self.low)
            touches = self.low == 0
            self.low, self.high = self.low - (0 if touches else room), self.high + room
        self.ticks = (log_ticks if log else linear_ticks)(self.low, self.high, count)

    def at(self, v):
        if self.log:
            if v <= 0:
                return math.nan
            share = math.log(v / self.low) / math.log(self.high / self.low)
        else:
            share = (v - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


# ---- parts of a picture --------------------------------------------------------------------------

def header(width, height, title):
    return [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">', f"<title>{escape(title)}</title>",
            style(), f'<rect class="g" width="{width}" height="{height}" rx="8"/>']


def titles(title, subtitle, y_label):
    out = [f'<text class="t" x="20" y="30" font-size="16" font-weight="600">{escape(title)}</text>']
    if subtitle:
        out.append(f'<text class="s" x="20" y="50" font-size="12.5">{escape(subtitle)}</text>')
    if y_label:
        out.append(f'<text class="s" x="20" y="{TOP - 14}" font-size="12.5">{escape(y_label)}'
                   "</text>")
    return out


def grid(x, y, left, right, bottom, x_label):
    out = []
    for t in y.ticks:
        p = y.at(t)
        out.append(f'<path class="r" d="M{left} {p:.1f}H{right}"/><text class="s" x="{left - 8}" '
                   f'y="{p + 4:.1f}" font-size="12" text-anchor="end">{number(t)}</text>')
    for t in x.ticks:
        p = x.at(t)
        out.append(f'<path class="r" d="M{p:.1f} {bottom}v5"/><text class="s" x="{p:.1f}" '
                   f'y="{bottom + 20}" font-size="12" text-anchor="middle">{number(t)}</text>')
    out.append(f'<text class="s" x="{(left + right) / 2:.0f}" y="{bottom + 41}" font-size="12.5" '
               f'text-anchor="middle">{escape(x_label)}</text>')
    return out


def thinned(points, most=900):
    """Of many points, for each of `most` columns the least and the greatest, in their order."""
    if len(points) <= 2 * most:
        return points
    out, size = [], len(points) / most
    for i in range(most):
        part = points[int(i * size):int((i + 1) * size)]
        ends = {min(range(len(part)), key=lambda k: part[k][1]),
                max(range(len(part)), key=lambda k: part[k][1])}
        out += [part[k] for k in sorted(ends)]
    return out


def curve(points, colour, kind):
    width = {"thin": 1.1, "dashed": 1.8, "wide": 7}.get(kind, 2.2)
    out, d, pen = [], [], "M"
    shown = [p for p in points if math.isfinite(p[1])]
    if kind not in ("dots", "rings"):
        for x, y in thinned(points) if len(points) > 1 else []:
            if math.isfinite(y):
                d.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L" if math.isfinite(y) else "M"
        dash = ' stroke-dasharray="6 5"' if kind == "dashed" else ""
        pale = ' opacity="0.35"' if kind in ("thin", "wide") else ""
        out.append(f'<path class="c{colour}" stroke-width="{width}"{dash}{pale} '
                   f'd="{"".join(d)}"/>')
    if kind == "rings":
        out += [f'<circle class="c{colour}" fill="none" stroke-width="1.4" cx="{x:.1f}" '
                f'cy="{y:.1f}" r="4.2"/>' for x, y in shown]
    if kind in ("dots", "both"):
        size = 3.4 if kind == "both" else 2.2
        out += [f'<circle class="f{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
                for x, y in shown]
    return out


def spread(places, low, high, gap=16):
    """Moves labels apart, keeping their order; returns their new places in the order given."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    at = [places[i] for i in order]
    for _ in range(200):
        for i in range(1, len(at)):
            miss = gap - (at[i] - at[i - 1])
            if miss > 0:
                at[i - 1] -= miss / 2
                at[i] += miss / 2
        if at and at[0] < low:
            at = [v + low - at[0] if k == 0 else v for k, v in enumerate(at)]
        if at and at[-1] > high:
            at[-1] = high
    out = [0.0] * len(places)
    for k, i in enumerate(order):
        out[i] = at[k]
    return out


def text_width(text, size=12.5):
    return 0.6 * size * len(text)


# ---- pictures ------------------------------------------------------------------------------------

def panel(series, title, x_label, y_label, subtitle="", log_x=False, log_y=False, x_range=None,
          y_range=None, height=420, name="frame"):
    """series: (label, [(x, y), ...], style), each in the colour of its place in the list; a fourth
    member is another colour. Returns the parts of the picture, the header apart."""
    named = [s for s in series if not s[0].startswith("-")]
    marked = 14 if any(s[2] != "line" for s in named) else 0  # room for each label's mark
    right = WIDTH - 24 - marked - int(max((text_width(s[0]) for s in named), default=0))
    bottom = height - BOTTOM
    x = Axis([p[0] for s in series for p in s[1]], log_x, x_range, LEFT, right, 7, tight=True)
    y = Axis([p[1] for s in series for p in s[1]], log_y, y_range, bottom, TOP, 6)
    out = titles(title, subtitle, y_label) + grid(x, y, LEFT, right, bottom, x_label)
    out.append(f'<clipPath id="{name}"><rect x="{LEFT - 5}" y="{TOP - 5}" '
               f'width="{right - LEFT + 10}" height="{bottom - TOP + 10}"/></clipPath>'
               f'<g clip-path="url(#{name})">')
    ends = []
    for i, s in enumerate(series):
        colour = s[3] if len(s) > 3 else i % len(LIGHT)
        points = [(x.at(a), y.at(b)) for a, b in s[1]]
        out += curve(points, colour, s[2])
        inside = [p for p in points if math.isfinite(p[1]) and p[0] <= right + 1
                  and TOP - 1 <= p[1] <= bottom + 1]
        if s in named:
            ends.append((s[0], colour, inside[-1] if inside else (right, bottom), s[2]))
    out.append("</g>")
    for (label, colour, end, kind), p in zip(ends, spread([e[2][1] for e in ends], TOP, bottom)):
        out += curve([(right + 14, p)], colour, kind) if marked and kind != "line" else []
        out.append(f'<text class="f{colour}" x="{right + 10 + marked}" y="{p + 4:.1f}" '
                   f'font-size="12.5" font-weight="600">{escape(label)}</text>')
        if right - end[0] > 12:  # the line ends early: lead the eye
            out.append(f'<path class="c{colour}" stroke-width="1" stroke-dasharray="1 4" '
                       f'opacity="0.6" d="M{end[0]:.1f} {end[1]:.1f}L{right + 6} {p:.1f}"/>')
    return out


def lines(path, series, title, *rest, height=420, **more):
    save(path, header(WIDTH, height, title) + panel(series, title, *rest, height=height, **more))


def stacked(path, panels, height=360):
    """One below the other: panels are the keyword arguments of `panel`."""
    out = header(WIDTH, height * len(panels), panels[0]["title"])
    for i, p in enumerate(panels):
        out.append(f'<g transform="translate(0 {height * i})">')
        out += panel(height=height, name=f"frame{i}", **p) + ["</g>"]
    save(path, out)


def dots(path, rows, title, x_label, subtitle="", mark=None, x_range=None):
    """rows: (label, value, text), one below the other, each a dot at the end of a stroke from the
    value `mark` (or from the left)."""
    left = 36 + int(max(text_width(r[0]) for r in rows))
    right, step, top = WIDTH - 130, 34, 76
    bottom = top + step * len(rows)
    x = Axis([r[1] for r in rows] + ([mark] if mark is not None else []), False, x_range, left,
             right, 6)
    out = header(WIDTH, bottom + BOTTOM, title) + titles(title, subtitle, "")
    for t in x.ticks:
        p = x.at(t)
        out.append(f'<path class="r" d="M{p:.1f} {top}V{bottom}"/><text class="s" x="{p:.1f}" '
                   f'y="{bottom + 20}" font-size="12" text-anchor="middle">{number(t)}</text>')
    out.append(f'<text class="s" x="{(left + right) / 2:.0f}" y="{bottom + 41}" font-size="12.5" '
               f'text-anchor="middle">{escape(x_label)}</text>')
    base = x.at(mark) if mark is not None else left
    if mark is not None:
        out.append(f'<path class="c5" stroke-width="1.2" stroke-dasharray="4 4" '
                   f'd="M{base:.1f} {top}V{bottom}"/>')
    for i, (label, value, text) in enumerate(rows):
        p, q = top + step * (i + 0.5), x.at(value)
        colour = 5 if mark is not None and value == mark else 1 if value > (
            mark if mark is not None else math.inf) else 0
        out.append(f'<text class="t" x="{left - 14}" y="{p + 4:.1f}" font-size="13" '
                   f'text-anchor="end">{escape(label)}</text>'
                   f'<path class="c{colour}" stroke-width="2.4" d="M{base:.1f} {p:.1f}H{q:.1f}"/>'
                   f'<circle class="f{colour}" cx="{q:.1f}" cy="{p:.1f}" r="6"/>'
                   f'<text class="t" x="{max(q, base) + 14:.1f}" y="{p + 4:.1f}" font-size="12.5">'
                   f"{escape(text)}</text>")
    save(path, out)


def save(path, out):
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out + ["</svg>", ""]))


# ---- from the command line -----------------------------------------------------------------------

def read(name):
    with open(name, encoding="utf-8") as f:
        rows = [line.split() for line in f if line.strip() and not line.startswith("#")]
    return [(float(r[0]), float(r[1])) for r in rows]


def series_of(text):
    label, _, rest = text.rpartition("=")
    name, kind, colour = (rest.split(":") + ["", ""])[:3]
    return (label, read(name), kind or "line") + ((int(colour),) if colour else ())


def pair(text):
    low, high = text.split(":")
    return float(low), float(high)


def main():
    p = argparse.ArgumentParser(description="draws curves as SVG")
    p.add_argument("out")
    p.add_argument("series", nargs="+", help="LABEL=FILE[:STYLE[:COLOUR]]")
    for name in ("title", "x", "y"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--subtitle", default="")
    p.add_argument("--log-x", action="store_true")
    p.add_argument("--log-y", action="store_true")
    p.add_argument("--x-range", type=pair)
    p.add_argument("--y-range", type=pair)
    p.add_argument("--height", type=int, default=420)
    a = p.parse_args()
    lines(a.out, [series_of(s) for s in a.series], a.title, a.x, a.y, subtitle=a.subtitle,
          log_x=a.log_x, log_y=a.log_y, x_range=a.x_range, y_range=a.y_range, height=a.height)


if __name__ == "__main__":
    main()
