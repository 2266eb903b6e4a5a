// Package history keeps flows that have ended and questions that have their answers in a SQLite database, and answers what was
// when: a page of records, or sums over them.
//
// Nobody waits for the disk. Records go into a bounded queue, and one goroutine writes them in batches. What does not fit or cannot
// be written is counted and lost. Whoever reads has connections of its own, which are few and bounded in time, and the writer never
// waits for them.
//
// A record is one row of numbers. What repeats stands in tables of its own: hosts, addresses, clients, and the circumstances of a
// record (its protocol, verdict, rule and so on). Beside the records there are sums by the hour, which stay when records go.
//
// Records that were written one after another are a span. When it ends, the table list gets which of its records have which circumstances,
// client and place; there is no index of them. Who looks for something rare reads the lists, the newest first, and the records themselves
// only of the span that has not ended.
//
// The age of records is not taken from the clock of the machine alone, which may be wrong: see clock.Age. The package does not choose
// which flows and questions there are, and knows no configuration.
package history
