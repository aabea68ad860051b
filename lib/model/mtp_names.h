// What tensors of MTP layers are called, by the release and by others: the table is schemas/mtp_names.json.
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

// In the order in which they are asked; the first is that of the release.
const std::vector<MtpConvention>& MtpConventions();

// How many MTP layers every release has, whatever its config.json says.
int64_t ReleasedMtpLayers();

struct MtpName {
  size_t convention = 0;  // into MtpConventions()
  int32_t layer = 0;      // counted from 0
  // Names that the release has in its place: one, or several whose rows this tensor holds one after the other. What
  // follows the number is kept as it is where the table of names has nothing for it.
  std::vector<std::string> released;
  bool reordered = false;  // rows need not lie as in the release: another project's layout
};

// What the name says, or nullopt for one that is of no MTP layer. `decoder_layers`: of the config.
std::optional<MtpName> ReadMtpName(std::string_view tensor, int64_t decoder_layers);

}  // namespace mimo
