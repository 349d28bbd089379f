"""The kinds of panel that the dashboards are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, table, text, timeseries
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

#: Whatever is chosen at the top of the page.
DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GOOD, WARNING, CRITICAL, WORST = "green", "orange", "red", "dark-purple"

#: Units, in Grafana's names.
COUNT, PER_SECOND, SECONDS, DURATION, BYTES, SHARE = "short", "cps", "s", "dtdurations", "bytes", "percentunit"


@dataclass(frozen=True)
class About:
    """What a panel says of itself; ``description``: what it shows, and when to worry."""

    title: str
    description: str
    unit: str
    width: int = 12
    height: int = 8


@dataclass(frozen=True)
class Query:
    """A PromQL expression and how its series are called, where ``{{name}}`` stands for a label's value."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Word:
    """What a number means."""

    name: str
    color: str


Words = Mapping[int, Word]

P = TypeVar("P", timeseries.Panel, stat.Panel, statetimeline.Panel, table.Panel)


def graph(about: About, *queries: Query, levels: Sequence[float] = (), stacked: bool = False) -> timeseries.Panel:
    """Lines over time. From the first of ``levels`` on it is a warning, from the second on critical."""
    panel = _described(timeseries.Panel(), about, queries, levels).axis_soft_min(0)
    panel.color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    if levels:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(25)
    return panel.show_points(VisibilityMode.NEVER).legend(_legend()).tooltip(_tooltip())


def bars(about: About, *queries: Query, levels: Sequence[float] = ()) -> timeseries.Panel:
    """Bars over time, for what happens seldom."""
    return graph(about, *queries, levels=levels, stacked=True).draw_style(GraphDrawStyle.BARS).fill_opacity(60)


def value(about: About, *queries: Query, levels: Sequence[float] = (), unknown: str = "unknown") -> stat.Panel:
    """The present value in large figures; ``unknown`` is shown where there is none.

    It is asked for alone: the last of an hour's values would go on showing after a fleet is gone.
    """
    panel = _described(stat.Panel(), about, (), levels).no_value(unknown).graph_mode(BigValueGraphMode.NONE)
    for place, query in enumerate(queries):
        panel.with_target(_target(place, query).instant())
    return panel.color_mode(BigValueColorMode.VALUE).color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))


def word(about: About, *queries: Query, words: Words) -> stat.Panel:
    """The present value as a word on its colour."""
    return value(about, *queries).mappings([_mapping(words)]).color_mode(BigValueColorMode.BACKGROUND)


def states(about: About, *queries: Query, words: Words) -> statetimeline.Panel:
    """Coloured bands over time, one for each series; a gap is a time of which nothing is known."""
    panel = _described(statetimeline.Panel(), about, queries, ()).mappings([_mapping(words)])
    return panel.fill_opacity(80).line_width(0).legend(common.VizLegendOptions().show_legend(False))


def listing(about: About, query: Query, columns: Mapping[str, str]) -> table.Panel:
    """The present series of a query, one a row; ``columns`` names labels, and `Value`, as the table heads them."""
    panel = _described(table.Panel(), about, (), ())
    panel.with_target(_target(0, query).instant().format(PromQueryFormat.TABLE))
    order = {label: place for place, label in enumerate(columns)}
    return panel.with_transformation(
        DataTransformerConfig(
            "organize", options={"excludeByName": {"Time": True}, "indexByName": order, "renameByName": dict(columns)}
        )
    )


def note(content: str) -> text.Panel:
    """A remark in Markdown over the whole width."""
    panel = text.Panel().title("What is not here").mode(TextMode.MARKDOWN).content(content)
    return panel.description("Where to look for what this page cannot show.").span(24).height(4)


def _described(panel: P, about: About, queries: Sequence[Query], levels: Sequence[float]) -> P:
    panel.title(about.title).description(about.description).unit(about.unit).datasource(DATASOURCE)
    panel.span(about.width).height(about.height).thresholds(_thresholds(levels))
    for place, query in enumerate(queries):
        panel.with_target(_target(place, query))
    return panel


def _target(place: int, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).range()
    return target.ref_id(chr(ord("A") + place)).datasource(DATASOURCE)


def _thresholds(levels: Sequence[float]) -> ThresholdsConfig:
    steps = [Threshold(None, GOOD)]
    steps += [Threshold(level, color) for level, color in zip(levels, (WARNING, CRITICAL), strict=False)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _mapping(words: Words) -> ValueMap:
    return ValueMap(
        {str(number): ValueMappingResult(meant.name, meant.color, index=number) for number, meant in words.items()}
    )


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.TABLE)
    return legend.placement(LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"])


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
