// What the headers of a Hugging Face directory and its index say of MTP layers, also where the directory cannot be
// opened as a checkpoint: a file is missing or cut short, the index lists what is not there, a tensor lies in two
// files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/model/catalogue.h"

namespace mimo {

// A tensor of an MTP layer that lies in more than one file, or a file below the directory that holds some.
struct MtpElsewhere {
  std::string tensor;
  std::string file;   // relative to the root: the one that counts, or the one below
  std::string other;  // the other file; "" for files below
};

struct MtpHeaders {
  Catalogue catalogue;          // config, index, all tensor files of the directory, every array once; by name
  std::vector<uint8_t> listed;  // by array: the index names it, in whatever file
  std::vector<MtpElsewhere> listed_elsewhere;  // the index names `other`
  std::vector<MtpElsewhere> twice;
  std::vector<MtpElsewhere> nested;                             // one for each file
  std::vector<std::pair<std::string, std::string>> absent;      // listed, and in no file: tensor, file of the index
  std::vector<std::pair<std::string, std::string>> unreadable;  // file, why
};

// Of each tensor that several files hold, the one counts that the index names, else the first by file name. kBadInput
// for a config or an index that is not valid; kIo.
Result<MtpHeaders> ReadMtpHeaders(FileSystem& fs, const std::string& root);

}  // namespace mimo
