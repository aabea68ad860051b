// How arrays lie in a file: one object without state for each kind of file that is written and checked. A file is a
// header and its arrays in order, each within a frame of its own; header and frames may be empty.
// Their lengths follow from names, dtypes and shapes alone, so that a plan can place every byte. lib/plan/containers.cc
// lists the kinds.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/io/tensor_info.h"

namespace mimo {

struct FileLayout {
  std::string header;  // stands first, and is known before any data is
  uint64_t bytes = 0;  // of the whole file
};

// Bytes that stand right before and right after the data of one array.
struct FrameSize {
  uint64_t head = 0;
  uint64_t tail = 0;
};

// What a plan says of the beginning of a file.
struct PlannedHeader {
  std::string_view file;    // its name
  std::string_view header;  // "": none, or that of the source's file
  bool linked = false;      // the file may be linked to one of the source
  bool has_source = false;  // a file of the source is named
};

// What a file is not, though it should be.
struct FileProblem {
  static constexpr size_t kNoArray = SIZE_MAX;
  size_t array = kNoArray;  // of those asked for
  std::string tensor;       // kNoArray: another array of the file; "" when it is about the file
  std::string what, expected, found;
};

struct FoundArrays {
  std::vector<std::optional<uint64_t>> begins;  // per array asked for: where its data begins; none where it is not
  std::vector<FileProblem> problems;
  uint64_t header_bytes = 0;  // from the start of the file; 0 where there is no header that can be read
  uint64_t bytes_read = 0;    // of frames
};

class Container {
 public:
  virtual ~Container() = default;

  // Its name in plans and manifests.
  virtual std::string_view word() const = 0;
  // Files begin with a header that says what they hold. One that holds the arrays of a file of the source may have that
  // file's header, and be linked to it.
  virtual bool HasHeader() const = 0;
  // Arrays lie in the order of their names; else in that in which they were planned.
  virtual bool SortsByName() const = 0;
  // The frame of one array.
  virtual FrameSize FrameOf(DType dtype, const std::vector<int64_t>& shape) const = 0;

  // Places `arrays` in the order given: sets begin and end. Deterministic. `metadata` is for the header, in its order.
  virtual FileLayout LayOut(std::span<TensorInfo> arrays,
                            std::span<const std::pair<std::string, std::string>> metadata) const = 0;
  // Whether a planned file can begin so. kBadInput: `what` names the file.
  virtual Status CheckHeader(const PlannedHeader& planned) const = 0;

  // Frames hold CRC-32s of the data: Complete needs those.
  virtual bool HoldsChecksums() const = 0;
  // Writes the frames of a file whose header and data are written. `crcs`: per array the CRC-32 of its data, where
  // HoldsChecksums.
  virtual Status Complete(std::span<const TensorInfo> arrays, std::span<const uint32_t> crcs,
                          WritableFile& out) const = 0;

  // Finds `arrays` (of which begin and end are not set) in a file, and compares all but their data with what it should
  // be. A file of another content is a problem; kIo: it cannot be read.
  virtual Result<FoundArrays> Find(FileSystem& fs, const std::string& path,
                                   std::span<const TensorInfo> arrays) const = 0;
};

}  // namespace mimo
