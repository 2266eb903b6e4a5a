package hostnet

import (
	"errors"
	"reflect"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/firewall"
)

// nftTable is our nftables table. The journal has only its name: undoing it is deleting the table.
type nftTable struct {
	Name string `json:"name"`

	table firewall.Table
}

// nftKey is the name of the table.
type nftKey string

func (t *nftTable) stage() stage                { return stageNft }
func (t *nftTable) key() any                    { return nftKey(t.Name) }
func (t *nftTable) String() string              { return "nft table inet " + t.Name }
func (t *nftTable) present(*view) (bool, error) { return t.table.Present() }
func (t *nftTable) make(*kernel) error          { return t.table.Apply() }
func (t *nftTable) undo(*kernel) error          { return firewall.Remove(t.Name) }

func (t *nftTable) revises(earlier change) bool {
	return !reflect.DeepEqual(t.table, earlier.(*nftTable).table)
}

// dispensable: without lockdown the rules alone close what is captured, except to sockets that are bound to an interface.
// That is better than nothing on a kernel without nftables.
func (t *nftTable) dispensable(err error) bool {
	return !t.table.Lockdown && !t.table.Forward.On && (firewall.IsUnsupported(err) || errors.Is(err, unix.ENOENT))
}
