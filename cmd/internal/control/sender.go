package control

// Sender is the program on this machine that sent a flow or asked a question, as far as it is known. Peers have none.
type Sender struct {
	Program   string  `json:"program,omitempty"`          // path, in the program's own mount namespace
	Replaced  bool    `json:"program_replaced,omitempty"` // its file is gone, or another one has taken its place
	Shared    bool    `json:"program_shared,omitempty"`   // other programs hold the same socket; Program began first
	Unit      string  `json:"unit,omitempty"`             // of systemd, without what changes at each start
	UserUnit  bool    `json:"unit_of_user,omitempty"`     // a user's own service manager made it, so the user chose the names of unit and container
	Container string  `json:"container,omitempty"`        // the first 12 digits of its ID, or its name
	UID       *uint32 `json:"uid,omitempty"`
}
