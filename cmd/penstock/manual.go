package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"penstock/cmd/internal/manual"
)

// newManualCommand makes the command that packages are built with.
func newManualCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:    "manual FOLDER",
		Short:  "Write the man pages of all commands into a folder",
		Hidden: true,
		Long: `Write the man pages of all commands into a folder, one for each command of the first level. Their
date is SOURCE_DATE_EPOCH, if that is set.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var date time.Time
			if text := e.getenv("SOURCE_DATE_EPOCH"); text != "" {
				seconds, err := strconv.ParseInt(text, 10, 64)
				if err != nil {
					return usagef("SOURCE_DATE_EPOCH is %q: set it to seconds since 1970", text)
				}
				date = time.Unix(seconds, 0)
			}
			return writeManual(cmd.Root(), args[0], date)
		},
	}
}

// writeManual writes a page for root and one for each of its commands.
func writeManual(root *cobra.Command, dir string, date time.Time) error {
	root.InitDefaultCompletionCmd()
	pages := map[string]*manual.Page{"penstock.1": mainPage(root, date)}
	for _, cmd := range root.Commands() {
		if !cmd.Hidden && cmd.Name() != "help" {
			pages["penstock-"+cmd.Name()+".1"] = commandPage(cmd, date)
		}
	}
	for name, page := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), page.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mainPage is penstock(1).
func mainPage(root *cobra.Command, date time.Time) *manual.Page {
	p := manual.New(manual.Title{Name: "penstock", Section: 1, About: lowerFirst(root.Short), Version: version(), Date: date})
	p.Section("SYNOPSIS")
	p.Usage("penstock", "[--socket FILE] COMMAND ...")
	p.Section("DESCRIPTION")
	about, codes, _ := strings.Cut(root.Long, "\n\n")
	p.Text(about)
	p.Section("COMMANDS")
	see := []string{manual.Bold("penstock.yaml") + "(5)"}
	for _, cmd := range root.Commands() {
		if cmd.Hidden || cmd.Name() == "help" {
			continue
		}
		p.Term(manual.Bold("penstock-"+cmd.Name())+"(1)", cmd.Short+".")
		see = append(see, manual.Bold("penstock-"+cmd.Name())+"(1)")
	}
	p.Section("OPTIONS")
	addFlags(p, root.PersistentFlags())
	p.Section("EXIT STATUS")
	p.Text(strings.TrimPrefix(codes, "Exit codes: "))
	p.Section("ENVIRONMENT")
	for _, v := range [][2]string{
		{"PENSTOCK_CONFIG", "The configuration, for commands that have -c and are not given it."},
		{"PENSTOCK_SOCKET", "The control socket of the running penstock, if --socket does not name it."},
		{"STATE_DIRECTORY", "The folder for what a gateway keeps, unless the configuration has state_dir. systemd sets it."},
		{"NO_COLOR", "No colours, whatever the terminal can show."},
	} {
		p.Term(manual.Bold(v[0]), v[1])
	}
	p.Section("FILES")
	p.Term(manual.Italic(systemConfig), "The configuration of the system's penstock.")
	p.Term(manual.Italic("/run/penstock/control.sock"), "Its control socket.")
	p.Term(manual.Italic("/var/lib/penstock"), "What it keeps: what it changed on the host, and the last configuration that worked.")
	p.Section("SEE ALSO")
	seeAlso(p, see)
	return p
}

// commandPage is the page of a command and of those below it.
func commandPage(cmd *cobra.Command, date time.Time) *manual.Page {
	p := manual.New(manual.Title{Name: "penstock-" + cmd.Name(), Section: 1, About: lowerFirst(cmd.Short), Version: version(), Date: date})
	all := append([]*cobra.Command{cmd}, below(cmd)...)
	p.Section("SYNOPSIS")
	for _, c := range all {
		if c.HasParent() && c.Runnable() && !isGroup(c) {
			p.Usage(c.CommandPath(), strings.TrimSpace(strings.TrimPrefix(c.UseLine(), c.CommandPath())))
		}
	}
	p.Section("DESCRIPTION")
	p.Text(about(cmd))
	if cmd.LocalNonPersistentFlags().HasAvailableFlags() {
		p.Section("OPTIONS")
		addFlags(p, cmd.LocalNonPersistentFlags())
	}
	if len(all) > 1 {
		p.Section("COMMANDS")
	}
	for _, c := range all[1:] {
		if isGroup(c) {
			continue
		}
		p.Subsection(c.CommandPath())
		p.Text(about(c))
		addFlags(p, c.LocalNonPersistentFlags())
	}
	p.Section("EXIT STATUS")
	p.Text("As in penstock(1), unless said otherwise above.")
	p.Section("SEE ALSO")
	seeAlso(p, []string{manual.Bold("penstock") + "(1)", manual.Bold("penstock.yaml") + "(5)"})
	return p
}

// isGroup reports whether a command only groups others: alone it is a usage error.
func isGroup(c *cobra.Command) bool { return c.HasSubCommands() && c.Long == "" }

// below returns the commands below cmd, each before those below itself.
func below(cmd *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			list = append(append(list, c), below(c)...)
		}
	}
	return list
}

// about is what a command's help says.
func about(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short + "."
}

// addFlags adds an entry for each flag.
func addFlags(p *manual.Page, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		term := manual.Bold("--" + f.Name)
		if f.Shorthand != "" {
			term = manual.Bold("-"+f.Shorthand) + ", " + term
		}
		if value != "" {
			term += " " + manual.Italic(value)
		}
		if d := f.DefValue; d != "" && d != "false" && d != "[]" && d != "0s" && d != "0" {
			usage += fmt.Sprintf(" (default %s)", d)
		}
		p.Term(term, strings.ToUpper(usage[:1])+usage[1:]+".")
	})
}

// seeAlso adds references, which are roff already.
func seeAlso(p *manual.Page, list []string) { p.Roff(strings.Join(list, ",\n")) }

// lowerFirst begins a sentence that goes on from a name in lower case.
func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
