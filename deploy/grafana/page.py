"""A dashboard as a page: variables at the top, links to its sisters, rows of panels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from grafana_foundation_sdk.builders.dashboard import Dashboard, DashboardLink, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard

from deploy.grafana.panels import DATASOURCE

#: Dashboards with this tag link to each other.
TAG = "bargeline"
_REFRESH = "10s"


AnyPanel: TypeAlias = Builder[dashboard.Panel]


@dataclass(frozen=True)
class Section:
    """A row of the page that can be folded away, and its panels from left to right, top to bottom."""

    title: str
    panels: Sequence[AnyPanel]


def page(
    uid: str, title: str, description: str, sections: Sequence[Section], choices: Sequence[QueryVariable] = ()
) -> dashboard.Dashboard:
    """Make a dashboard of one pipeline; ``choices`` are variables of its own."""
    made = Dashboard(f"Bargeline: {title}").uid(f"bargeline-{uid}").description(description).tags([TAG])
    made.refresh(_REFRESH).time("now-1h", "now").timezone("browser").tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    made.variables([DatasourceVariable("datasource").label("Prometheus").type("prometheus"), _pipeline(), *choices])
    made.links([_links()])
    for section in sections:
        made.with_row(Row(section.title))
        for panel in section.panels:
            made.with_panel(panel)
    built = made.build()
    for number, each in enumerate(built.panels or [], 1):
        each.id_val = number
    return built


def choice(name: str, label: str, values: str) -> QueryVariable:
    """A variable of which several, or all, can be chosen; ``values`` is its `label_values` query."""
    return _variable(name, label, values).multi(multi=True).include_all(include_all=True).current(_ALL)


_ALL = dashboard.VariableOption(text="All", value="$__all", selected=True)


def _pipeline() -> QueryVariable:
    return _variable("pipeline", "Pipeline", "label_values(bargeline_build_info, pipeline)")


def _variable(name: str, label: str, values: str) -> QueryVariable:
    variable = QueryVariable(name).label(label).datasource(DATASOURCE)
    variable.query({"query": values, "refId": "StandardVariableQuery"})
    return variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        dashboard.VariableSort.ALPHABETICAL_ASC
    )


def _links() -> DashboardLink:
    link = DashboardLink("Bargeline").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(as_dropdown=False).include_vars(include_vars=True).keep_time(keep_time=True)
