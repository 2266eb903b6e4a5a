package firewall

import (
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// chainNotes has a rule for each note, in whose comment the note is. A table itself can have a comment only since Linux 5.10.
const chainNotes = "notes"

// longestNote is how many bytes there are for a note beside our own comment. A comment has 253 (NFT_USERDATA_MAXLEN).
const longestNote = 200

// beforeNote stands between our own comment and the note.
const beforeNote = ": "

// notes returns the chain for the notes, if there are any.
func (t Table) notes() []chain {
	notes := slices.DeleteFunc(slices.Clone(t.Notes), func(n string) bool { return len(n) > longestNote })
	if len(notes) == 0 {
		return nil
	}
	c := chain{Chain: nftables.Chain{Name: chainNotes}, notes: notes}
	for range notes {
		c.rules = append(c.rules, []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
	}
	return []chain{c}
}

// note returns what the comment of the i-th rule has besides ours.
func (c chain) note(i int) string {
	if i >= len(c.notes) {
		return ""
	}
	return beforeNote + c.notes[i]
}

// notesIn returns the notes of a table in the kernel; none if it has just been removed.
func notesIn(c *nftables.Conn, table *nftables.Table) []string {
	rules, err := c.GetRules(table, &nftables.Chain{Name: chainNotes, Table: table})
	if err != nil {
		return nil
	}
	var list []string
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		if _, note, ok := strings.Cut(comment, beforeNote); ok {
			list = append(list, note)
		}
	}
	return list
}
