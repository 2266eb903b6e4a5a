// Package lists keeps the lists of categories: the operator's files, subscriptions that it fetches, and built-in lists,
// which replace the ones that are missing.
//
// The last good version of each subscription stays on disk, and so does the compiled set of all lists. A start therefore
// does not wait for the network. A version that was fetched replaces the one before only if it is plausible.
//
// It does not parse lists, does not decide what a category is used for, and does not choose how an address is dialled.
package lists
