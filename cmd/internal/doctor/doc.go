// Package doctor looks for what is wrong with a host, with a configuration and with the penstock that runs, or should run, there.
//
// It first collects facts, all at once and each for a limited time, and then judges them by a list of pure checks. A fact that
// cannot be looked up is not a fault: the check says why it was not made.
//
// It changes nothing, and mends nothing.
package doctor
