// Package flowlog writes finished flows and DNS questions to a file, a line of JSON each, and rotates it; or to systemd's journal, or to
// a syslog daemon of this host.
//
// Nobody waits for the disk. Records go into a bounded queue, and one goroutine writes them. What does not fit, or cannot
// be written, is counted and lost. A disk that stalls, a pipe that nobody reads, a daemon that hangs, or a full disk therefore slows neither a
// flow nor a question, nor the start or stop of penstock.
//
// Rotation is our own. lumberjack v2.2.1 counts sizes in whole MiB, keeps all old files where we keep none, opens a pipe
// with a wait, and starts a goroutine that never ends (read 2026-11).
//
// The package does not read logs, and does not choose what is logged.
package flowlog
