// Package notices tells the user of a desktop what the running penstock has just blocked, and when its state changes in a way that
// matters. It runs in the user's session, and asks the control socket like any other reader. It changes nothing.
package notices
