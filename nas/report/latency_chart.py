"""The chart of measured against predicted latency on one device, which shows how accurate the predictions are."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from nas.report.contents import Contents, on_device
from nas.report.numbers import milliseconds, percent
from nas.report.svg import AxisScale, drawing, element, frame, tooltip

_WIDTH, _HEIGHT = 420.0, 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 404.0, 28.0, 346.0


def latency_chart(contents: Contents, device: str) -> Markup:
    """Return the chart of one device as an SVG element, or an empty string if no network was measured on the device.

    Dots are held-out networks, which were not used to fit the latency profile. Rings are candidates and exports.
    """
    held_out = [(item["predicted_ms"], item["measured_ms"]) for item in contents.profiles[device]["held_out"]]
    networks = list(measured_networks(contents, device))
    values = [value for pair in held_out for value in pair]
    values += [value for _, predicted, measured in networks for value in (predicted, measured)]
    if not values:
        return Markup()
    x = AxisScale.around(values, _LEFT, _RIGHT)
    y = AxisScale(x.low, x.high, _BOTTOM, _TOP, x.logarithmic)
    kind = " (logarithmic)" if x.logarithmic else ""
    equal = element("line", x1=x.start, y1=y.start, x2=x.end, y2=y.end, class_="equal")
    dots = "".join(
        element("circle", _tip("held-out network", *pair), cx=x(pair[0]), cy=y(pair[1]), r=4, class_="held-out")
        for pair in held_out
    )
    rings = "".join(
        element("circle", _tip(name, *pair), cx=x(pair[0]), cy=y(pair[1]), r=6, class_="whole")
        for name, *pair in networks
    )
    content = frame(x, y, f"predicted ms{kind}", f"measured ms{kind}") + equal + dots + rings
    return drawing(_WIDTH, _HEIGHT, f"Predicted against measured latency on {device}", "chart", content)


def measured_networks(contents: Contents, device: str) -> Iterator[tuple[str, float, float]]:
    """Yield a triple (name, predicted ms, measured ms) for each candidate and export that was measured on a device."""
    for budget in contents.budgets:
        if not budget.on(device):
            continue
        for item in contents.front["budgets"].get(budget.name, ()) if contents.front else ():
            words, measurements = f"{item['description']}, candidate for {budget.name}", on_device(item, device)
            if device in item["predicted_ms"] and "p50_ms" in measurements and measurements.get("measured", True):
                yield words, item["predicted_ms"][device], measurements["p50_ms"]
    for name, export in contents.exports_on(device).items():
        yield f"{export['description']}, exported as {name}", export["predicted_ms"][device], export["p50_ms"]


def _tip(name: str, predicted: float, measured: float) -> str:
    error = percent(abs(predicted - measured) / measured)
    return tooltip(f"{name}\npredicted {milliseconds(predicted)}\nmeasured {milliseconds(measured)}\nerror {error}")
