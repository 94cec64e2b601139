"""The plot: a bar for each row and system, times native, on a logarithmic scale; SVG."""

import math
from xml.sax.saxutils import escape

import report
from rows import GROUPS

COLORS = ["#d08a2e", "#2f6fb5", "#3b9c67", "#8a56a8"]
LEFT, RIGHT, TOP, BAR, GAP = 130, 60, 64, 7, 6
WIDTH = 900


class Drawing:
    def __init__(self):
        self.parts, self.y = [], TOP

    def rect(self, x, y, width, height, color):
        self.parts.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>'
                          % (x, y, width, height, color))

    def line(self, x1, y1, x2, y2, color, width=1):
        self.parts.append('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%s"/>'
                          % (x1, y1, x2, y2, color, width))

    def text(self, x, y, text, size=11, anchor="start", color="#222", weight="normal"):
        self.parts.append('<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" fill="%s" '
                          'font-weight="%s">%s</text>' % (x, y, size, anchor, color, weight, escape(text)))


def scale(low, high):
    """A function from a ratio to an x coordinate."""
    span = math.log(high / low)
    return lambda val: LEFT + (WIDTH - LEFT - RIGHT) * math.log(max(val, low) / low) / span


def ticks(low, high):
    for power in range(-3, 6):
        for step in (1, 2, 5):
            val = step * 10.0 ** power
            if low <= val <= high * 1.001:
                yield val


def limits(values):
    """Whole ticks around the values, native among them."""
    low = max(t for t in ticks(0.001, 1e5) if t <= min(min(values), 1))
    high = min((t for t in ticks(0.001, 1e5) if t >= max(values)), default=1e5)
    return low, max(high, 10)


def bars(d, x, name, values, weight="normal"):
    top = d.y
    for color, val in zip(COLORS, values):
        if val is not None:
            start, end = sorted((x(1), x(val)))
            d.rect(start, d.y, max(end - start, 1), BAR - 1, color)
            d.text(end + 4, d.y + BAR - 1, report.times(val, 0), 8, color="#555")
        d.y += BAR
    d.text(LEFT - 8, (top + d.y) / 2 + 3, name, 11, "end", weight=weight)
    d.y += GAP


def grid(d, x, low, high):
    for val in ticks(low, high):
        strong = val == 1
        d.line(x(val), TOP - 6, x(val), d.y, "#777" if strong else "#e2e2e2", 1.2 if strong else 1)
        for y in (TOP - 12, d.y + 14):
            d.text(x(val), y, "%g" % val, 10, "middle", "#555")


def svg(results):
    systems, base = report.emulators(results), "native"
    if base not in results["systems"]:
        base = "qemu"
        systems = [s for s in systems if s != base]
    groups = [(title, report.rows_of(results, group)) for group, title in GROUPS.items()]
    # Booting has no native time; its bars would have no base.
    groups = [(title, rows) for title, rows in groups
              if any(report.ratio(results, r, s, base) for r in rows for s in systems)]
    values = [v for _, rows in groups for r in rows for s in systems
              for v in [report.ratio(results, r, s, base)] if v]
    if not values:
        return None
    low, high = limits(values)
    x, body, back = scale(low, high), Drawing(), Drawing()
    for title, rows in groups:
        body.text(LEFT - 8, body.y + 12, title, 12, "end", "#000", "bold")
        body.line(20, body.y - 1, WIDTH - 20, body.y - 1, "#bbb")
        body.y += 20
        for row in rows:
            bars(body, x, row, [report.ratio(results, row, s, base) for s in systems])
        bars(body, x, "mean", [report.mean_ratio(results, rows, s, base) for s in systems], "bold")
        body.y += 4
    back.y = body.y
    grid(back, x, low, high)
    head = Drawing()
    head.text(20, 24, "CPU seconds, times %s (logarithmic, shorter is faster)" % base, 14, weight="bold")
    for i, system in enumerate(systems):
        head.rect(WIDTH - RIGHT - 100 * (len(systems) - i), 14, 11, 11, COLORS[i])
        head.text(WIDTH - RIGHT - 100 * (len(systems) - i) + 16, 24, system, 12)
    height = body.y + 28
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" '
            'font-family="sans-serif">\n<rect width="100%%" height="100%%" fill="#fff"/>\n%s\n</svg>\n'
            % (WIDTH, height, WIDTH, height, "\n".join(back.parts + body.parts + head.parts)))
