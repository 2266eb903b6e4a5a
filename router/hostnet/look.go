package hostnet

// Left is what a state file says of the host.
type Left struct {
	Changes  []string // that were made and not undone
	Held     bool     // by a penstock that runs
	Lockdown bool
}
