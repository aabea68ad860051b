// The hash that a manifest holds of itself: its last member, on a line of its own.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lib/base/hash.h"
#include "lib/base/status.h"

namespace mimo {

// How every manifest begins, as it was written.
inline constexpr char kBeginOfManifest[] = "{\n\"format\":\"mimo-manifest\",\n\"version\":";
// Versions of the manifest. The first had no hash of its own text; the third is the second with hashes of values.
inline constexpr int kManifestWithoutHash = 1, kManifestOfBytes = 2, kManifestOfValues = 3;

// What ends a manifest whose text so far, from its first byte on, has the hash `of_text`: the comma, the member and the
// brace.
std::string EndOfManifest(const Hash128& of_text);

// Whether the hash at the end of a manifest is that of its text; nullopt where it does not end with one.
std::optional<bool> ManifestHashAgrees(std::string_view text);

// kBadInput that says so, for who would use a manifest whose hash does not agree.
Error ChangedManifest(const std::string& path);

}  // namespace mimo
