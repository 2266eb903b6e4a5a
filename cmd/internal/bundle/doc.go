// Package bundle makes a support archive: what somebody who cannot see the host needs to know of it.
//
// No secret is in it. The files with keys and passwords are never put in, values that are known to be secret are removed from
// everything else, and so is what looks like a key. Names of hosts, peers and users, and addresses, are replaced by a hash whose key
// is thrown away: within one archive the same name has the same hash.
//
// It sends the archive nowhere.
package bundle
