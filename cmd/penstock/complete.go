package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"penstock/cmd/internal/control"
)

// A shell waits for what it is offered, and a person reads it.
const (
	completionTime = 2 * time.Second
	completionMost = 500
)

// offer asks the running penstock for words that may stand at a place. A word's description follows a tab.
type offer func(ctx context.Context, client *control.Client) ([]string, error)

// argumentOffers are what stands behind a command, by its path below penstock. Behind every other one stands nothing that can be
// offered, and a file only behind those in fileArguments.
func argumentOffers() map[string]offer {
	return map[string]offer{
		"up": offerTransports, "down": offerTransports, "reconnect": offerTransports, "login": offerTransports,
		"flows kill": offerFlows, "allow": offerCategories,
		"peer rm": offerPeers, "peer show": offerPeers, "peer disable": offerPeers, "peer enable": offerPeers, "peer sign-out": offerPeers,
		"peer dns": offerPeers, "peer quota reset": offerPeers, "peer uninvite": offerInvitations,
	}
}

// flagOffers are the values of flags, by the flag's name, which means the same with each command.
func flagOffers() map[string]offer {
	return map[string]offer{"peer": offerPeers, "from": offerPeers, "via": offerTransports, "rule": offerRules, "group": offerGroups, "category": offerCategoryNames}
}

// fileFlags are the flags whose value is a file, with the endings of its name. No ending means any file.
func fileFlags() map[string][]string {
	return map[string][]string{"config": {"yaml", "yml"}, "state": {"json"}, "out": nil, "socket": nil,
		"key": nil, "previous": {"bundle"}, "creds": {"creds"}, "nkey": nil, "ca": nil}
}

// fileArguments are the commands with a file behind them.
func fileArguments() map[string]bool {
	return map[string]bool{"import": true, "fleet keygen operator": true, "fleet keygen gateway": true, "fleet sign": true, "fleet show": true, "fleet publish": true}
}

// addCompletions teaches every command what a shell may offer.
func addCompletions(e *env, cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		addCompletions(e, sub)
	}
	path := strings.TrimPrefix(cmd.CommandPath(), "penstock ")
	if from, ok := argumentOffers()[path]; ok {
		cmd.ValidArgsFunction = e.completing(from, 1)
	} else if !fileArguments()[path] {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	flags := func(f *pflag.Flag) {
		var complete cobra.CompletionFunc = cobra.NoFileCompletions
		if from, ok := flagOffers()[f.Name]; ok {
			complete = e.completing(from, 0)
		} else if endings, ok := fileFlags()[f.Name]; ok && endings != nil {
			complete = cobra.FixedCompletions(endings, cobra.ShellCompDirectiveFilterFileExt)
		} else if ok {
			return
		} else if f.Name == "last-good" || f.Name == "dir" {
			complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)
		}
		if f.Value.Type() == "bool" {
			return
		}
		_ = cmd.RegisterFlagCompletionFunc(f.Name, complete) // fails only for a flag that the command does not have
	}
	cmd.LocalNonPersistentFlags().VisitAll(flags)
	cmd.PersistentFlags().VisitAll(flags)
}

// completing makes a completion of an offer, for at most so many arguments; 0 is for a flag, which has one value. A penstock that
// does not run offers nothing, and a slow one does not keep the shell waiting.
func (e *env) completing(from offer, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		parent := cmd.Context()
		if parent == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(parent, completionTime)
		defer cancel()
		client, err := e.dial(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer client.Close()
		words, err := from(ctx, client)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return matching(words, begun), cobra.ShellCompDirectiveNoFileComp
	}
}

// matching returns the words that go on from begun, each once. A word that a shell would split or run is left out.
func matching(words []string, begun string) []cobra.Completion {
	var list []cobra.Completion
	seen := make(map[string]bool)
	for _, w := range words {
		word, about, _ := strings.Cut(w, "\t")
		if seen[word] || !strings.HasPrefix(word, begun) || !isPlainWord(word) || len(list) == completionMost {
			continue
		}
		seen[word] = true
		list = append(list, cobra.CompletionWithDesc(word, printable(about)))
	}
	return list
}

// isPlainWord reports whether every shell takes a word as it is.
func isPlainWord(word string) bool {
	const others = "._-:@%+/"
	for _, r := range word {
		isLetter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !isLetter && !strings.ContainsRune(others, r) {
			return false
		}
	}
	return word != "" && word[0] != '-'
}

func offerTransports(ctx context.Context, client *control.Client) ([]string, error) {
	s, err := client.Status(ctx)
	var words []string
	for _, t := range s.Transports {
		words = append(words, t.Name+"\t"+t.Kind+", "+stateText(t))
	}
	return words, err
}

func offerFlows(ctx context.Context, client *control.Client) ([]string, error) {
	answer, err := client.Flows(ctx, control.FlowQuery{})
	var words []string
	for _, f := range answer.Flows {
		to := f.Dst
		if f.Host != "" {
			to = f.Host + " " + f.Dst
		}
		words = append(words, f.ID+"\t"+f.Proto+" "+f.Src+" to "+to)
	}
	return words, err
}

func offerPeers(ctx context.Context, client *control.Client) ([]string, error) {
	answer, err := client.Peers(ctx)
	var words []string
	for _, p := range answer.Peers {
		words = append(words, p.Name+"\t"+p.State)
	}
	return words, err
}

func offerGroups(ctx context.Context, client *control.Client) ([]string, error) {
	answer, err := client.Peers(ctx)
	var words []string
	for _, p := range answer.Peers {
		words = append(words, p.Groups...)
	}
	return words, err
}

func offerInvitations(ctx context.Context, client *control.Client) ([]string, error) {
	answer, err := client.Invitations(ctx)
	var words []string
	for _, i := range answer.Invitations {
		words = append(words, i.Name+"\t"+i.State)
	}
	return words, err
}

func offerRules(ctx context.Context, client *control.Client) ([]string, error) {
	answer, err := client.Rules(ctx)
	var words []string
	for _, r := range answer.Rules {
		words = append(words, r.Name+"\t"+r.Do)
	}
	return words, err
}

func offerCategoryNames(ctx context.Context, client *control.Client) ([]string, error) {
	answer, err := client.Lists(ctx)
	var words []string
	for _, l := range answer.Lists {
		words = append(words, l.Category)
	}
	return words, err
}

func offerCategories(ctx context.Context, client *control.Client) ([]string, error) {
	words, err := offerCategoryNames(ctx, client)
	for i := range words {
		words[i] = "category:" + words[i]
	}
	return words, err
}
