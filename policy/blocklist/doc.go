// Package blocklist compiles published block lists into a compact Set that says which categories a host name is in.
//
// It reads the usual list formats and refuses files that cannot be a sane list. A Set of a million names takes about ten
// megabytes. It does not fetch lists, watch files or decide what happens to a name in a category.
package blocklist
