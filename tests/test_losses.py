import math

import torch

from lookagain.losses import IGNORE, dpo_margins, regularised_dpo, token_logps, top_token_labels


def test_token_logps_are_those_of_the_labelled_tokens_alone():
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]])
    labels = torch.tensor([[IGNORE, 1, 2]])
    logps = token_logps(probabilities.log(), labels)
    torch.testing.assert_close(logps.sum(-1), torch.tensor([math.log(0.8) + math.log(0.6)]))
    assert ((logps == 0) == (labels == IGNORE)).all()


def test_top_token_labels_take_the_first_token_or_the_second_where_the_first_is_the_label():
    logits = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.3], [0.9, 0.2, 0.6]]])
    assert top_token_labels(logits, torch.tensor([[2, 1, IGNORE]])).tolist() == [[0, 2, IGNORE]]


def test_one_rejected_response_is_plain_dpo():
    policy, reference = torch.tensor([-10.0, -12.0, -8.0, -9.0]), torch.tensor([-11.0, -11.0, -8.5, -9.5])
    owner, chosen = torch.tensor([0, 0, 1, 1]), torch.tensor([True, False, True, False])
    margins = dpo_margins(policy, reference, owner, chosen, 2, beta=0.1)
    torch.testing.assert_close(margins, torch.tensor([0.1 * (1 + 1), 0.1 * (0.5 - 0.5)]))
    losses = regularised_dpo(margins, policy[chosen], alpha=0.0)
    torch.testing.assert_close(losses, torch.tensor([math.log1p(math.exp(-0.2)), math.log(2)]))


def test_several_rejected_responses_are_summed_inside_the_sigmoid():
    """SeVa Eq. 18: the pair's margin is the chosen log-ratio less the SUM of the rejected ones."""
    policy, reference = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -1.0, -1.0])
    margins = dpo_margins(policy, reference, torch.zeros(3, dtype=torch.long), torch.tensor([True, False, False]), 1, beta=0.5)
    torch.testing.assert_close(margins, torch.tensor([0.5 * (0.5 - (-1.0 - 2.0))]))


def test_regulariser_takes_alpha_times_the_sum_of_log_probs():
    """STIC Eq. 4.1."""
    loss = regularised_dpo(torch.tensor([0.0]), torch.tensor([-102.4]), alpha=1 / 1024)
    torch.testing.assert_close(loss, torch.tensor([math.log(2) + 0.1]))
