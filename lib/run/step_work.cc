#include "lib/run/step_work.h"

#include "lib/run/cell_work.h"
#include "lib/run/strip_work.h"
#include "lib/run/turn_work.h"

namespace mimo {

StepWork::StepWork(const Job& job, const Step& step, uint64_t limit, DirectSides direct) : step_(step), layout_(job) {
  for (const RowStrip& strip : step.strips) PlaceStrip(strip, &layout_);
  for (const CellJob& cell : step.cells) PlaceCell(job.plan.groups[cell.group].cells[cell.cell], &layout_);
  for (const TurnUnit& unit : step.turns) PlaceTurn(unit, &layout_);
  for (const EncodeStrip& strip : step.encodes) PlaceEncode(strip, step.pass, &layout_);
  layout_.Place(limit, direct);
}

Result<StepResult> StepWork::Transform(std::byte* data, Backend& backend, const EncodeRequest& request) const {
  const StepBuffer buffer(layout_, data);
  StepResult result;
  for (const RowStrip& strip : step_.strips) MIMO_RETURN_IF_ERROR(MakeStrip(buffer, strip, backend, &result));
  for (const CellJob& cell : step_.cells) MakeCell(buffer, cell, &result);
  for (const TurnUnit& unit : step_.turns) MIMO_RETURN_IF_ERROR(MakeTurn(buffer, unit, backend, &result));
  MIMO_RETURN_IF_ERROR(MakeEncodes(buffer, step_, backend, request, &result));
  result.MergeWrites();
  return result;
}

}  // namespace mimo
