// Package blocklist turns published block lists into a compact Set that says which categories a host name is in.
//
// It reads the usual list formats, refuses files that cannot be a sane list, and keeps a Set of a million names in about
// ten megabytes. It does not fetch lists, watch files or decide what a category is good for.
package blocklist
