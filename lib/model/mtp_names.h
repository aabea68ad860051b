// What tensors of MTP layers are called, by the release and by others: "mtp" of the family's description.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mimo {

struct MtpConvention {
  std::string id;              // "released", "decoder", "megatron" ...
  std::string name;            // for people: "model.layers.L+N"
  std::string prefix;          // in front of the number
  bool after_decoder = false;  // numbers go on where those of decoder layers end
};

struct MtpNaming {
  int64_t released_layers = 0;  // how many every release has, whatever its config.json says
  bool windowed = false;        // their attention is that of sliding windows
  bool moe = false;             // their MLP has experts
  std::string drafter;          // what a drafter calls every MTP layer, so that ignore lists have it; "" for none
  std::vector<MtpConvention> conventions;  // in the order in which they are asked; the first is that of the release
  std::vector<std::string> inner;          // modules between the number and the rest that others have
  struct Rest {
    std::string from;
    std::vector<std::string> to;
  };
  std::vector<Rest> rests;  // what others call what follows the number, and names of the release for it
};

struct MtpName {
  size_t convention = 0;  // into MtpNaming::conventions
  int32_t layer = 0;      // counted from 0
  // Names that the release has in its place: one, or several whose rows this tensor holds one after the other. What
  // follows the number is kept as it is where the table of names has nothing for it.
  std::vector<std::string> released;
  bool reordered = false;  // rows need not lie as in the release: another project's layout
};

// What the name says, or nullopt for one that is of no MTP layer. `decoder_layers`: of the config.
std::optional<MtpName> ReadMtpName(const MtpNaming& naming, std::string_view tensor, int64_t decoder_layers);

}  // namespace mimo
