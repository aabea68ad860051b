// Encoded weights in pieces that fit in memory: what they read, how many bytes they need, where they may be cut.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/run/steps.h"

namespace mimo {

// Every encoded weight of a group that is not skipped, whole; where its grid begins anew, one strip from there to
// there. By share.
std::vector<EncodeStrip> EncodesOf(const Job& job, uint32_t group);

// Where those are cut: at multiples of this many rows from their first: whole blocks, and whole runs of rows that
// errors are summed over.
int64_t EncodeUnit(const EncodedWeight& weight);

// Rows of one source that become consecutive rows of a strip, or some of their columns.
struct StripPiece {
  uint32_t source = kNone;  // kNone: padding
  int64_t source_row = 0;
  int64_t rows = 0;
  bool begins = false;     // the first row is the first of its piece in the plan
  int64_t target_row = 0;  // of the strip
  int64_t source_col = 0;
  int64_t target_col = 0;
  int64_t cols = 0;  // values; 0: whole rows of both, or of padding
};
std::vector<StripPiece> PiecesOf(const Job& job, const EncodeStrip& strip);

// Values of a row of an encoded weight.
int64_t EncodeColumns(const Job& job, const EncodedWeight& weight);

// Rows of scales that belong to the strip's rows of codes, [first, first + count).
struct StripScales {
  int64_t first = 0;
  int64_t count = 0;
};
StripScales ScaleRowsOf(const Job& job, const EncodeStrip& strip);

// EncodedWeight::share of the strip's weight.
uint32_t ShareOf(const Job& job, const EncodeStrip& strip);
// The first strip in [begin, end), at least one, of another share than the first.
std::vector<EncodeStrip>::const_iterator EndOfShare(const Job& job, std::vector<EncodeStrip>::const_iterator begin,
                                                    std::vector<EncodeStrip>::const_iterator end);
// Buffer bytes that these need at once.
uint64_t SharedMemory(const Job& job, std::span<const EncodeStrip> strips);
// How many of the first rows of `weight`, a multiple of `unit`, need at most `limit` bytes; at least one unit.
int64_t EncodeRowsThatFit(const Job& job, const EncodeStrip& weight, int64_t unit, uint64_t limit, GlobalPass pass);

// Payload bytes read and written.
uint64_t EncodeProgress(const Job& job, const EncodeStrip& strip);

}  // namespace mimo
