// Package database opens the file of the history: whose it is, its version, what is damaged or has no room, and who may read it at a
// time.
//
// It does not know what the tables mean.
package database
