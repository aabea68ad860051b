// A form: a way in which a checkpoint lies on disk. Each is one stateless object in a room of its own (lib/forms/ROOM),
// found in a registry (lib/forms/registry), and is asked whatever the form decides, as a source and as an output.
// Where a form does not say otherwise it is as that of Hugging Face: as a source every form is shown as a Hugging Face
// checkpoint, as an output every form is arranged from the plan of one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/draft/draft.h"
#include "lib/draft/placement.h"
#include "lib/forms/checkpoint.h"
#include "lib/forms/choice.h"
#include "lib/forms/quantized_modules.h"
#include "lib/forms/target.h"

namespace mimo {

class Form;
struct HfDescription;

// What filling a draft found out about every weight of the source, whatever is left of it in the end. Weights are named
// by the catalogue array of their elements, some more than once.
struct Tally {
  std::vector<uint32_t> rounded;      // whose decoded values need rounding
  std::vector<uint32_t> maybe_exact;  // that an exact path may take
  std::vector<uint32_t> decoded;  // the first of a layer whose attention becomes BF16, for its blocks would straddle
};

// Blocks of the attention of a layer that are re-quantized.
struct Straddling {
  int32_t layer = 0;
  bool mtp = false;
  uint64_t blocks = 0;
  uint64_t of = 0;  // blocks that are written
};

// What the outputs that are made lose: the tally of what filters and ranks have left.
struct Losses {
  uint64_t rounded = 0, maybe_exact = 0, decoded_layers = 0;
  std::vector<Straddling> straddling;  // in the order of the draft
  bool any() const { return rounded > 0 || !straddling.empty(); }
};

// A plan in the making. What it refers to outlives it.
struct Planning {
  // What is converted.
  const Form& form;            // of the output
  const Catalogue& catalogue;  // the source as a Hugging Face checkpoint: what is stored, or what a view shows
  const Inventory& inventory;  // of `catalogue`
  const LayoutVerdict& layout;
  const PlanOptions& options;
  const SurveyFacts& facts;
  const Catalogue& stored;  // what is read
  const View* view;         // how the catalogue is shown; null: it is what is stored
  const Like* like;         // of a merged checkpoint: some weights are the reference's, under its layout
  // What was decided and planned so far.
  StorageChooser chooser;
  Target target = {};
  Draft draft{catalogue, inventory};
  Tally tally = {};
  // Of the outputs as a Hugging Face checkpoint has them, by a form whose own do not show it any more.
  std::optional<HfQuantization> quantization = {};
  Losses losses = {};                   // once the draft is arranged
  std::vector<std::string> notes = {};  // what people should know of the plan beyond its figures
};

// What of a Hugging Face directory a form has.
struct FormTraits {
  bool plain = true;         // it is for no engine in particular: what the source was may be restored as it was
  bool index = true;         // there is a model.safetensors.index.json
  bool quantization = true;  // config.json says what the plan stores quantized
  bool declares = true;      // its readers go by what config.json declares of each module
  bool cache_scales = true;  // scales of the KV cache have a place
  bool towers = true;        // as have towers
  bool mtp = true;           // and MTP layers
  bool companions = true;    // tokenizer, code and other models lie beside its tensors, where readers look for them
};

class Form {
 public:
  virtual ~Form() = default;

  virtual FormKind kind() const { return FormKind::kHf; }  // its word in plans and markers
  virtual FormTraits traits() const { return {}; }

  // ---- as a source

  // Whether `root` is a directory of this form that no catalogue of tensor files can be opened of. kBadInput for one
  // that is not complete.
  virtual Result<bool> RecognisesDirectory(FileSystem&, const std::string& /*root*/) const { return false; }
  // Whether a directory without a marker is of this form, by the names of its files and arrays. What no form
  // recognises is Hugging Face's.
  virtual bool Recognises(const Catalogue& /*stored*/) const { return false; }
  // Understands a directory that was recognised: its view, inventory and layout, as far as possible; for Hugging Face
  // the survey of the data and the decision about the layout. Checkpoint::stored is open already, unless the form
  // recognises directories.
  virtual Status Open(FileSystem& fs, const std::string& root, const OpenOptions& options,
                      OpenedCheckpoint* opened) const;

  // What the arrays of such a directory are as a Hugging Face checkpoint, by their headers alone; nullopt where that is
  // what they are. Errors of Open.
  virtual Result<std::optional<View>> Show(const Catalogue& /*stored*/) const { return std::optional<View>(); }

  // ---- as an output, in the order in which a plan is made

  // Whether these options ask for this form.
  virtual bool IsAskedFor(const PlanOptions& options) const { return options.to == TargetKind::kHf; }
  // Options that were not given become what the form takes them to be.
  virtual void Complete(PlanOptions* /*options*/) const {}
  // kUsage for options and topologies that the form refuses, and those that contradict each other.
  virtual Status Check(const Planning& p) const;
  // Layout and dimensions of the output, what is decoded, and notes on what its reader will do with it: all of the
  // target but what StartTarget (target.h) has filled in. `attention`: what attention is to be stored as. kUsage for a
  // layout that does not fit the model, and ranks that cannot share it out (with the nearest number that can).
  virtual Status Aim(const Choice& attention, Planning* p) const;
  // Why a weight is not of the output; "" when it is.
  virtual std::string WhyDropped(const Planning& p, const TensorId& id) const;
  // What the form and not the recipe stores a weight as; nullopt leaves it to recipe and --dtype.
  virtual Result<std::optional<Choice>> Store(const Planning&, const Weight&, const TensorId&,
                                              const std::string& /*name*/) const {
    return std::optional<Choice>();
  }
  // Every output as a Hugging Face checkpoint has it, and the tally: the tensors that no table knows (as --unknown
  // says), attention layer by layer, then all other weights. kUsage for what cannot be stored as it was asked for,
  // kBadInput for unknown tensors under --unknown refuse.
  virtual Status Fill(Planning* p) const;
  // The outputs of the draft become the form's own. kUsage for what it has no place for.
  virtual Status Arrange(Planning*) const { return {}; }
  // Files that outputs go to, and how they lie in them.
  virtual PlacementOptions Place(Planning* p) const;
  // The texts of a placed plan (config, index, what else the form has: traits, Amend), what is carried along, and what
  // the payload is. Errors of EditHfConfig.
  virtual Status Describe(const Planning& p, Plan* plan) const;
  // What config.json says in this form besides or instead of what follows from the plan.
  virtual void Amend(const Planning&, HfDescription*) const {}
  // What to do where blocks straddle and are not to be re-quantized, in words.
  virtual std::string InsteadOfStraddling(const Planning& p) const;
  // Adds what people should know of the finished plan beyond its figures.
  virtual void Note(Planning* p) const;
  // Why nothing reads a stored array of a plan that was made from a view.
  virtual std::string WhyUnread(const Planning& p, uint32_t array) const;
};

}  // namespace mimo
