"""Settings of a sampling design and of an assessment; the command line fills them in."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.assessment.count import BLOCK_PX
from engine.assessment.designs import RARE_POINTS, RARE_SHARE, Rule
from engine.assessment.intervals import Kind

DesignKind = Literal["simple", "stratified", "clusters"]


class ClusterOptions(BaseModel):
    """Clusters: squares of the grid that are drawn first, and points in each."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    side_px: int = Field(default=100, ge=2, le=100_000, description="Side of a cluster, pixels.")
    points_each: int = Field(default=10, ge=1, description="Points in each cluster.")
    correlation: float = Field(
        default=0.1, ge=0, le=1, description="How alike errors inside a cluster are expected to be (rho)."
    )


class DesignOptions(BaseModel):
    """How points are drawn, and how many."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: DesignKind = Field(
        default="stratified", description="simple, stratified (by map class) or clusters."
    )
    points: int | None = Field(default=None, ge=2, description="How many in all; or give a target.")
    target_error: float | None = Field(
        default=None, gt=0, lt=0.5, description="Standard error of the overall accuracy that is aimed at."
    )
    target_users: float | None = Field(
        default=None,
        gt=0,
        lt=0.5,
        description="Half width of the interval of each class's user's accuracy that is aimed at.",
    )
    expected: float = Field(default=0.85, gt=0, lt=1, description="Expected user's accuracy of a class.")
    expected_of: dict[str, float] = Field(
        default_factory=dict, description="Expected user's accuracy of single classes."
    )
    allocation: Rule = Field(default="rare", description="How points are shared out over the strata.")
    rare_points: int = Field(default=RARE_POINTS, ge=2, description="Points of each rare stratum.")
    rare_share: float = Field(
        default=RARE_SHARE, ge=0, lt=1, description="A stratum with a smaller share of the area is rare."
    )
    without: tuple[str, ...] = Field(default=(), description="Classes that are no part of the population.")
    broader: bool = Field(default=False, description="Strata are the classes' parents.")
    clusters: ClusterOptions = Field(default_factory=ClusterOptions, description="For kind clusters.")
    seed: int = Field(default=0, description="Of the draw; more points of a seed hold its fewer points.")
    classes: str | None = Field(default=None, description="YAML of the class scheme.")
    store: str | None = Field(default=None, description="Which of a run's maps: map, refined, a version.")
    block_px: int = Field(default=BLOCK_PX, ge=256, description="Side of the blocks that are read.")

    @model_validator(mode="after")
    def _one_size(self) -> DesignOptions:
        given = [self.points is not None, self.target_error is not None, self.target_users is not None]
        if sum(given) != 1:
            raise ValueError("give one of points, target_error and target_users")
        if self.target_users is not None and self.kind != "stratified":
            raise ValueError("target_users is for kind stratified: each class is a stratum there")
        return self


class RunOptions(BaseModel):
    """How answers are read and what is estimated."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    design: str | None = Field(default=None, description="Design file; default the one beside the answers.")
    no_design: bool = Field(
        default=False, description="The points are of no known design: take them as a simple random sample."
    )
    id: str = Field(default="id", description="Column with the points' ids.")
    column: str = Field(default="reference", description="Column with the answers.")
    layer: str | None = Field(default=None, description="Layer of the answers.")
    x: str = Field(default="lon", description="Column with the first coordinate, in a table.")
    y: str = Field(default="lat", description="Column with the second coordinate, in a table.")
    crs: str = Field(default="EPSG:4326", description="CRS of a table's coordinates.")
    cluster: str | None = Field(
        default=None, description="Column of points that belong together (bootstrap)."
    )
    certainty: str = Field(default="certainty", description="Column with how sure the interpreter is.")
    least_certainty: float | None = Field(
        default=None, description="Answers that are less certain count as none."
    )
    skip_unknown: bool = Field(default=False, description="Answers that mean no class count as none.")
    broader: bool = Field(default=False, description="Assess the broader classes (parents in the scheme).")
    regions: str | None = Field(default=None, description="Vector file of regions to tell apart.")
    region_column: str | None = Field(default=None, description="Column with their names.")
    poststratify: bool = Field(
        default=False, description="Weigh a simple random sample by the mapped area of each class."
    )
    interval: Kind = Field(default="wilson", description="Kind of the intervals.")
    level: float = Field(default=0.95, gt=0.5, lt=1, description="Of the intervals.")
    kappa: bool = Field(default=False, description="Also kappa.")
    replicates: int = Field(default=0, ge=0, le=100_000, description="Of the bootstrap; 0 for none.")
    seed: int = Field(default=0, description="Of the bootstrap.")
    classes: str | None = Field(default=None, description="YAML of the class scheme.")
    store: str | None = Field(default=None, description="Which of a run's maps: map, refined, a version.")
    block_px: int = Field(default=BLOCK_PX, ge=256, description="Side of the blocks that are read.")

    @model_validator(mode="after")
    def _one_way(self) -> RunOptions:
        if self.no_design and self.design is not None:
            raise ValueError("give a design, or no_design")
        return self
