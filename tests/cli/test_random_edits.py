"""Conversions of randomly edited checkpoints, judged by an independent reading of what they wrote.

What is edited, which conversions are tried and what is right: harness/edit_trials.py. $MIMO_EDITS trials (200) from seed
$MIMO_EDITS_SEED (1); without $MIMO_EDITS no trial is begun after a minute and a half. One alone, again:
    python3 -m harness.edit_trials --trial SEED:NUMBER --keep DIR
"""
import os
import unittest

from harness import edit_trials
from harness.case import ToolCase

TRIALS = int(os.environ.get("MIMO_EDITS", "200"))
SECONDS = None if "MIMO_EDITS" in os.environ else 90


class TestRandomEdits(ToolCase):
    def test_exit_0_only_where_output_config_and_truth_agree(self):
        trials = edit_trials.run_many(os.environ.get("MIMO_EDITS_SEED", "1"), range(TRIALS), seconds=SECONDS)
        self.assertGreater(len(trials), 0)
        print(edit_trials.summary(trials))
        wrong = [edit_trials.report(t) for t in trials if t.violations]
        self.assertFalse(wrong, "\n".join(wrong[:20]))
        if len(trials) >= 100:                                   # the trials have to show something
            self.assertGreater(sum(t.code == 0 for t in trials), len(trials) // 5)

    def test_a_seed_gives_the_same_trial_again(self):
        one, other = (edit_trials.run("again", 3) for _ in range(2))
        self.assertEqual((one.base, one.edits, one.options, one.code), (other.base, other.edits, other.options, other.code))


if __name__ == "__main__":
    unittest.main()
