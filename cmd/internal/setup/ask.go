package setup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"penstock/cmd/internal/config"
)

// Questions are asked on Out and answered, each by a line, on In.
type Questions struct {
	In  *bufio.Reader
	Out io.Writer
}

// errNoAnswer says that nobody is there any more.
var errNoAnswer = errors.New("there is no answer: nothing was written")

// ask asks until take accepts the answer. An empty answer is standard.
func (q Questions) ask(question, standard string, take func(answer string) error) error {
	if standard != "" {
		question += " [" + standard + "]"
	}
	for {
		fmt.Fprintf(q.Out, "%s: ", question)
		line, err := q.In.ReadString('\n')
		answer := strings.TrimSpace(line)
		if err != nil && answer == "" {
			fmt.Fprintln(q.Out)
			return errNoAnswer
		}
		if answer == "" {
			answer = standard
		}
		err = take(answer)
		if err == nil {
			return nil
		}
		fmt.Fprintln(q.Out, "  "+err.Error())
	}
}

// Confirm asks a question that is answered with yes or no.
func (q Questions) Confirm(question string, standard bool) (yes bool, err error) {
	choice := map[bool]string{true: "yes", false: "no"}
	err = q.ask(question, choice[standard], func(answer string) error {
		yes = answer != "" && strings.HasPrefix("yes", strings.ToLower(answer))
		if !yes && (answer == "" || !strings.HasPrefix("no", strings.ToLower(answer))) {
			return errors.New("answer yes or no")
		}
		return nil
	})
	return yes, err
}

// several splits an answer at commas and blanks.
func several(answer string) []string {
	return strings.FieldsFunc(answer, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// needed refuses an answer that is empty.
func needed(answer, what string) error {
	if answer == "" {
		return errors.New(what)
	}
	return nil
}

// Ask asks for the answers that are missing. Those that have a default are asked for if given does not have their flag.
func (a *Answers) Ask(q Questions, given func(flag string) bool) error {
	if a.Purpose == "" {
		err := q.ask("What is this machine, a laptop or a gateway for others", string(Laptop), func(answer string) (err error) {
			a.Purpose, err = ParsePurpose(answer)
			return err
		})
		if err != nil {
			return err
		}
	}
	questions := a.laptopQuestions
	if a.Purpose == Gateway {
		questions = a.gatewayQuestions
	}
	if err := questions(q, given); err != nil {
		return err
	}
	if !given("block") {
		question := "Which categories are blocked: " + strings.Join(config.BuiltIn(), ", ") + ", or others with a list of yours"
		err := q.ask(question, "none", func(answer string) error {
			if answer == "none" {
				answer = ""
			}
			return a.SetBlock(several(answer))
		})
		if err != nil {
			return err
		}
	}
	for _, name := range a.withoutList() {
		question := fmt.Sprintf("No list of %s is built in%s. The file or URL of one, or another category instead", name, meant(name))
		err := q.ask(question, "", func(answer string) error {
			if err := needed(answer, "write a path or https://HOST/PATH: any usual format will do"); err != nil {
				return err
			}
			if slices.Contains(config.BuiltIn(), answer) {
				others := slices.DeleteFunc(slices.Clone(a.Block), func(n string) bool { return n == name })
				return a.SetBlock(append(others, answer))
			}
			return a.AddList(name + "=" + answer)
		})
		if err != nil {
			return err
		}
	}
	if given("intranet") {
		return nil
	}
	return q.ask("Domains of the intranet, for example corp.example", "none", func(answer string) error {
		if answer == "none" {
			answer = ""
		}
		return a.SetIntranet(several(answer))
	})
}

func (a *Answers) laptopQuestions(q Questions, _ func(string) bool) error {
	if a.Profile != "" {
		return nil
	}
	return q.ask("The file of your company or provider, from WireGuard (.conf) or OpenVPN (.ovpn)", "", func(answer string) error {
		if err := needed(answer, "write the path of the file"); err != nil {
			return err
		}
		_, err := readProfile(answer)
		a.Profile = answer
		return err
	})
}

func (a *Answers) gatewayQuestions(q Questions, given func(string) bool) error {
	if len(a.Networks) == 0 {
		err := q.ask("The networks behind this gateway that peers may reach, for example 10.20.0.0/16", "", func(answer string) error {
			if err := needed(answer, "write one or more networks"); err != nil {
				return err
			}
			return a.SetNetworks(several(answer))
		})
		if err != nil {
			return err
		}
	}
	if a.Endpoint == "" {
		err := q.ask("The public name or address that peers dial, for example vpn.corp.example", "", func(answer string) error {
			if err := needed(answer, "write a name or an address that leads here from the internet"); err != nil {
				return err
			}
			return a.SetEndpoint(answer)
		})
		if err != nil {
			return err
		}
	}
	if _, port := a.endpoint(); !given("port") {
		if err := q.ask("The UDP port on which it listens", strconv.Itoa(port), a.SetPort); err != nil {
			return err
		}
	}
	if given("dns") {
		return nil
	}
	var found []string
	for _, addr := range a.DNS {
		found = append(found, addr.String())
	}
	return q.ask("The DNS servers that it asks", strings.Join(found, ", "), func(answer string) error {
		if err := needed(answer, "write the address of one"); err != nil {
			return err
		}
		return a.SetDNS(several(answer))
	})
}
