package control

import "context"

// The results of a Finding.
const (
	ResultOK         = "ok"
	ResultWarning    = "warning" // works, but not as it should, or not for long
	ResultFault      = "fault"   // does not work, or does not protect
	ResultNotChecked = "not checked"
)

// Finding is what one check of doctor found.
type Finding struct {
	Name   string `json:"name"`
	Result string `json:"result"` // ok, warning, fault or not checked
	Found  string `json:"found"`
	Mend   string `json:"mend,omitempty"` // what to do about it
}

// Findings is what the checks of doctor found, in the order in which to mend them.
type Findings struct {
	APIVersion string    `json:"apiVersion"`
	Findings   []Finding `json:"findings"`
}

// Doctor looks for what is wrong with the host and with penstock.
type Doctor interface {
	// Doctor changes nothing, and takes at most 10 s.
	Doctor(context.Context) ([]Finding, error)
}

// Doctor asks the running penstock to check itself and its host.
func (c *Client) Doctor(ctx context.Context) (Findings, error) {
	return call[Findings](ctx, c, "doctor", struct{}{})
}
