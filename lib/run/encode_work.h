// Encoded weights of one step in memory: put together from rectangles where they are, measured where they share a
// global scale, then encoded.
#pragma once

#include "lib/base/status.h"
#include "lib/run/backend.h"
#include "lib/run/step_layout.h"
#include "lib/run/step_result.h"
#include "lib/run/steps.h"

namespace mimo {

// What a step must be told of its encoded weights.
struct EncodeRequest {
  bool errors = false;                          // measure their error
  const kernels::Measured* measured = nullptr;  // of the step's share, when its pass is kMeasured
};

// Reads the rows of every piece of a strip, with their scales, and the scales to keep; makes a room where rows are put
// together and, unless the step only measures, codes and scales, and the scalars with the first row. Call it in the
// order of Step::encodes: strip i has room i.
void PlaceEncode(const EncodeStrip& strip, GlobalPass pass, Needs* needs);

// Encodes group after group, share after share: all strips of one are measured before the first is encoded, unless they
// were before. Emits codes and scales of each strip, and adds its EncodeDelta and scalars; a step that only measures
// adds StepResult::measured. kDevice when the backend fails.
Status MakeEncodes(const StepBuffer& buffer, const Step& step, Backend& backend, const EncodeRequest& request,
                   StepResult* result);

}  // namespace mimo
