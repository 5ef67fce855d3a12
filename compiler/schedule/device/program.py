"""Turns a graph into a program for a GPU. The groups are those for processors, lowered in other
ways:

products and convolutions by contraction.py, and attentions by attention.py, if they have one of the
forms there; operators that write their own loops by those loops; everything else by nests.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.program import Launch, Program
from bessemer.compiler.options import Tuning
from bessemer.compiler.schedule.derived_sizes import name_derived_sizes
from bessemer.compiler.schedule.device.attention import lower_device_attention, may_attend
from bessemer.compiler.schedule.device.contraction import lower_device_contraction
from bessemer.compiler.schedule.device.lowering import DeviceLowering
from bessemer.compiler.schedule.device.split import lower_split_reductions
from bessemer.compiler.schedule.grouping.attention import Attention
from bessemer.compiler.schedule.grouping.form_groups import form_groups, separate_groups
from bessemer.compiler.schedule.grouping.groups import Group, Grouping
from bessemer.compiler.schedule.grouping.kinds import is_widening
from bessemer.compiler.schedule.lowering.choices import Choices
from bessemer.compiler.schedule.lowering.lower_statements import lower_statements
from bessemer.compiler.schedule.program import ProgramBuilder, assembled
from bessemer.compiler.targets.nvptx import DeviceTarget


def build_device_program(
    graph: Graph,
    target: DeviceTarget,
    optimize: int = 2,
    precision: str = "float32",
    tuning: Tuning | None = None,
) -> Program:
    """The steps that run a graph on a GPU. All launches are DeviceLaunches; the arguments are those
    of build_program."""
    graph, derived = name_derived_sizes(graph)
    choices = Choices(tuning or Tuning())
    builder = _DeviceBuilder(graph, target, optimize, precision, choices, derived)
    return assembled(builder, graph, derived)


class _DeviceBuilder(ProgramBuilder):
    def __init__(
        self,
        graph: Graph,
        target: DeviceTarget,
        optimize: int,
        precision: str,
        choices: Choices,
        derived: Mapping[str, Size],
    ) -> None:
        super().__init__(graph, target, optimize, precision, choices, derived)
        self.lowering: DeviceLowering = DeviceLowering(
            self.constants, target, optimize > 0, precision, choices
        )

    def grouping(self, graph: Graph) -> Grouping:
        if not self.fuses:
            return separate_groups(graph)

        def attends(found: Attention) -> bool:
            return may_attend(found, graph, self.lowering.target, self.lowering.precision)

        return form_groups(
            graph, attends, by_pairs=False, by_regions=False, by_squares=False, by_columns=False
        )

    def attention(self, group: Group, grouping: Grouping) -> Sequence[Launch]:
        launches = lower_device_attention(group, grouping, self.lowering)
        if launches is None:
            raise InternalError("an attention that has no form on a GPU was made a group")
        return launches

    def contraction(self, group: Group, grouping: Grouping) -> Sequence[Launch] | None:
        return lower_device_contraction(group, grouping, self.lowering)

    def views(self, operand: Value, grouping: Grouping) -> Sequence[Node]:
        """The views through which an operand can be read, as on processors, and widening casts."""
        found: list[Node] = []
        while operand not in grouping.roots:
            node = grouping.producers.get(operand)
            if node is None or not ((node.operator.is_view and node.inputs) or is_widening(node)):
                break
            found.append(node)
            operand = node.inputs[0]
        return found

    def elements(self, group: Group) -> Sequence[Launch]:
        """The launches of a group without products; two launches if it has long reductions to few
        elements."""
        parts = None
        if group.anchor is None and self.fuses:
            parts = lower_split_reductions(group, self.lowering)
        return super().elements(group) if parts is None else parts

    def copied_first(self, graph: Graph) -> Sequence[Node]:
        return ()

    def carried_over(
        self, body: Graph, results: Sequence[Value], carried: Sequence[Value]
    ) -> Sequence[Sequence[Node]]:
        return ()

    def statements(self, node: Node) -> Launch:
        return lower_statements(node, self.lowering)
