// Package lists keeps the lists of categories: files of the operator, subscriptions that it fetches, and the built-in
// ones that stand in for what is not there yet.
//
// A subscription's last good version is kept on disk, and so is the compiled set of all lists, so that a start waits
// for no network and hardly for the disk. What was fetched is judged before it replaces anything.
//
// It does not parse lists, decide what a category is good for, or choose how an address is dialled.
package lists
