// Package decisions keeps what somebody decides while penstock runs: to allow or to block a name or a category, for a while or
// always, and to pause the filter. It puts decisions in force, ends them, and resets the flows that only they let pass.
//
// What is to last is in the managed file, one entry a line. People may edit it meanwhile: a change is made to what the file holds
// then, and the file is read again when it has changed. A file with a fault allows nothing. What it blocked when it was last good
// stays blocked, also after a restart.
//
// It does not judge: policy.WithDecisions says what a decision means.
package decisions
