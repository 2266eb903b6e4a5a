// Package peerbook changes the peers of a gateway: it finds free addresses, and writes, replaces and removes the files of peers
// in the folder that the configuration includes.
//
// One process at a time changes the folder, under a lock. A change is taken back if the configuration is invalid with it.
//
// It does not make keys, and it does not tell the running gateway.
package peerbook
