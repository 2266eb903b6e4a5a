// Package keeper is a service manager that keeps sockets, for tests: it takes what a program puts into its file descriptor store
// (sd_notify(3), FDSTORE=1), and gives it to the next that it starts (sd_listen_fds(3)), as systemd does. Linux only.
//
// It starts and restarts nothing by itself.
package keeper
